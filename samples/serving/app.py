"""Serves a compiled classifier of images over HTTP with FastAPI.

    pip install '.[samples]' uvicorn && dcc compile samples/lenet5.onnx -o lenet5.dcc.onnx
    MODEL=lenet5.dcc.onnx uvicorn --app-dir samples/serving app:app

The model is opened once, when the server starts, and all requests share its session: onnxruntime's sessions may run
from any number of threads at once. POST /classify takes {"image": 28 rows of 28 numbers from 0 to 255}.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel

from dc_compiler import InferenceSession

MEAN, STD = 0.1307, 0.3081  # of the pixels that LeNet was trained on, from 0 to 1
SIDE = 28


class Picture(BaseModel):
    """A grey image, rows from the top."""

    image: list[list[float]]


class Answer(BaseModel):
    """The likeliest digit and the probability of each."""

    digit: int
    probabilities: list[float]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the model before the first request; a broken one keeps the server from starting."""
    app.state.session = InferenceSession(os.environ["MODEL"])
    yield
    del app.state.session


app = FastAPI(lifespan=lifespan)


@app.get("/health")
def health(request: Request) -> dict[str, bool]:
    """Whether requests can be answered."""
    return {"ready": hasattr(request.app.state, "session")}


@app.post("/classify")
def classify(picture: Picture, request: Request) -> Answer:
    """Which digit an image shows. A plain function: FastAPI calls it from a pool of threads."""
    try:
        pixels = np.array(picture.image, np.float32)
    except ValueError:
        pixels = np.empty(0, np.float32)
    if pixels.shape != (SIDE, SIDE):
        raise HTTPException(422, f"an image is {SIDE} rows of {SIDE} numbers")
    x = ((pixels / 255 - MEAN) / STD)[None, None]
    logits = request.app.state.session.run(None, {"x": x})[0][0]
    exponentials = np.exp(logits - logits.max())
    return Answer(digit=int(logits.argmax()), probabilities=(exponentials / exponentials.sum()).tolist())
