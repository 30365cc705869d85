"""What touches the trainers of transformers and TRL, and changes with their versions."""
