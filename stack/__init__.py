"""The servers of an installation on one machine: what they are, and starting, stopping and watching them."""
