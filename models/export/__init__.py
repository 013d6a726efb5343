"""Makes SavedModels that take pictures, from Keras models and from the models that ship."""
