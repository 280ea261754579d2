"""Line protocol: one line to its parts and back, and what a line may say."""
