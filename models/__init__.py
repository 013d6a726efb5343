"""Models: reads SavedModels, makes fast engines from them, and exports new ones. The only importer of TensorFlow."""
