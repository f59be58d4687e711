"""Features of images from a trained retriever: extraction, folded batch norms, exported models."""
