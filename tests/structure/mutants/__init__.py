"""Small mistakes in the product's decisions, and which tests notice them."""
