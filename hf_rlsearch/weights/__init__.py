"""The shipped weights and their card; `load` reads and checks them."""
