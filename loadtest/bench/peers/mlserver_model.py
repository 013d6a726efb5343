"""MLServer with the model: a custom runtime with adaptive batching; text in and numbers out as V2 JSON.

    PEER_MODEL=model/digits/1 PYTHONPATH=loadtest/bench/peers MLSERVER_MODEL_NAME=default \
    MLSERVER_MODEL_IMPLEMENTATION=mlserver_model.PictureModel .bench/mlserver/bin/mlserver start loadtest/bench/peers

A picture arrives as the text that the graph wants, so the runtime converts nothing.
"""

import asyncio

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from saved_model import open_model


class PictureModel(MLModel):  # type: ignore[misc]  # MLServer is not installed here
    """Calls the model once for each batch that MLServer made."""

    async def load(self) -> bool:
        """Opens the model; returns True, which means ready."""
        self._model = open_model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Returns the answer to a batch; the model runs in a thread, so that the event loop keeps taking requests."""
        images = [text.encode() for text in StringCodec.decode_input(payload.inputs[0])]
        answer = await asyncio.to_thread(self._model, images)
        outputs = [NumpyCodec.encode_output(name, column) for name, column in answer.items()]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
