"""Uses TensorFlow once as a server does: saves, loads, freezes and calls a model that takes pictures.

The Dockerfile runs it after trim.py. It fails the build if TensorFlow no longer works, and it leaves the bytecode of
exactly the modules that a server loads.
"""  # noqa: INP001 - a program, not a package

import base64
import tempfile

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2


class Picture(tf.Module):
    """A model that computes three numbers from a picture with one layer of ones."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = tf.Variable(tf.ones([64, 3]))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def look(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns `probability: float32[n, 3]` for `images: string[n]`, pictures in base64."""

        def pixels(text: tf.Tensor) -> tf.Tensor:
            picture = tf.io.decode_image(tf.io.decode_base64(text), channels=1, expand_animations=False)
            return tf.reshape(tf.image.resize(picture, [8, 8]), [64])

        rows = tf.map_fn(pixels, images, fn_output_signature=tf.float32)
        return {"probability": tf.nn.softmax(rows @ self.weights)}


def main(folder: str) -> None:
    """Calls the model through TensorFlow 2's loader and a frozen graph, then opens it with TensorFlow 1's loader."""
    picture = Picture()
    tf.saved_model.save(picture, folder, signatures={"serving_default": picture.look})
    loaded = tf.saved_model.load(folder)  # must stay alive: its signature holds no reference to the variables
    frozen = convert_variables_to_constants_v2(loaded.signatures["serving_default"])
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(frozen.graph.as_graph_def(), name="")
    call = tf.compat.v1.Session(graph=graph).make_callable([frozen.outputs[0].name], feed_list=[frozen.inputs[0].name])
    jpeg = tf.io.encode_jpeg(tf.zeros([9, 9, 3], tf.uint8)).numpy()
    (answer,) = call([base64.urlsafe_b64encode(jpeg)] * 2)
    if answer.shape != (2, 3):
        raise SystemExit(f"TensorFlow answered {answer.shape}, wanted (2, 3)")
    tf.compat.v1.saved_model.loader.load(tf.compat.v1.Session(graph=tf.Graph()), ["serve"], folder)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(temporary)
