"""Parts of the model, one module each. They know nothing of data, of training, or of each other's insides."""
