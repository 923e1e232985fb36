"""What the trainers share. Nothing here imports a trainer."""
