"""Inference with a trained retriever: extraction, folded batch norms, exported models."""
