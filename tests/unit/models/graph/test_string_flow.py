"""The trace of an input's strings. What it says about DecodeBase64 is tested with the pass that uses it."""

from darkroom.models.graph.string_flow import Origin, trace
from darkroom.models.runtime.tensorflow import tf


def test_a_picture_is_followed_through_ops_that_alter_the_text() -> None:
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.string, [None], name="images")
        text = tf.strings.regex_replace(images, "^data:image/jpeg;base64,", "")
        tf.map_fn(tf.io.decode_jpeg, tf.io.decode_base64(text), fn_output_signature=tf.uint8)

    flow = trace(graph.as_graph_def(), ["images:0"])
    assert [node.op for node in flow.pictures[Origin("images:0", decoded=True)]] == ["DecodeJpeg"]
    assert "StaticRegexReplace" in flow.not_hoistable(["images:0"])["images:0"]
