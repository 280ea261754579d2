"""What every part tells about itself: metrics and logs."""
