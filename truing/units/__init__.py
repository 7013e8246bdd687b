"""Which unit of one network is which of another: orders, plans, and what is fused by them."""
