"""What requests cost and were worth: profiles of outcomes, floors, limits, the reward."""
