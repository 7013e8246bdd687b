"""A judge -> a policy that draws several replies and gives one back."""
