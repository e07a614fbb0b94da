"""The only wiring: builds the parts in start order and takes them apart in shutdown order."""
