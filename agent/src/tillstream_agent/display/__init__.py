"""What the cashier sees."""
