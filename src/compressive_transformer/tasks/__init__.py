"""What people train the model for; each task puts data, model and training together."""
