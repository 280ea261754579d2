"""What is measured of the whole chain, beside Telegraf."""
