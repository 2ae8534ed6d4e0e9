"""A seeded source of card transactions, chargebacks and feed faults."""
