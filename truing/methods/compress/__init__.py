"""A mixture of experts -> a smaller one."""
