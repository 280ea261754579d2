"""The read routes under /api/v1, receipts included."""
