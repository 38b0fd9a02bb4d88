"""Makes the models of this folder and expected.json: what numpy, PIL and onnxruntime compute with them.

    pip install numpy onnx onnxruntime pillow
    python3 make.py
"""

import json

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

SIDE = 8
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def weights(name, *shape):
    """Numbers between -1 and 1 without a pattern, and without a generator that could change."""
    count = int(np.prod(shape))
    values = np.sin(np.arange(1, count + 1) * 12.9898) * 43758.5453
    return numpy_helper.from_array((2 * (values % 1) - 1).astype(np.float32).reshape(shape), name)


def save(name, nodes, inputs, outputs, initializers, opset=17, metadata=()):
    tensor = lambda it: helper.make_tensor_value_info(it[0], TensorProto.FLOAT, it[1])
    graph = helper.make_graph(nodes, "test", [tensor(it) for it in inputs], [tensor(it) for it in outputs], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    for key, value in metadata:
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, name)


node = helper.make_node
features = [
    node("Conv", ["x", "kernel", "bias"], ["convolved"], pads=[1, 1, 1, 1]),
    node("Relu", ["convolved"], ["active"]),
    node("GlobalAveragePool", ["active"], ["pooled"]),
    node("Flatten", ["pooled"], ["features"]),
]
kernel, bias = weights("kernel", 4, 3, 3, 3), weights("bias", 4)
head = [node("Gemm", ["features", "matrix", "offset"], ["logits"], transB=1)]
head_weights = [weights("matrix", 3, 4), weights("offset", 3)]

# Any number of colour pictures of any size; two outputs.
save(
    "classifier.onnx",
    features + head,
    [("x", ["N", 3, "H", "W"])],
    [("logits", ["N", 3]), ("features", ["N", 4])],
    [kernel, bias] + head_weights,
)
# Exactly one picture of 5 rows and 6 columns, channels last.
save(
    "channels_last.onnx",
    [node("Transpose", ["picture"], ["x"], perm=[0, 3, 1, 2])] + features + head
    + [node("Softmax", ["logits"], ["probabilities"], axis=1)],
    [("picture", [1, 5, 6, 3])],
    [("probabilities", [1, 3])],
    [kernel, bias] + head_weights,
)
# Grey pictures; a column of pixels is a step of a text over blank, a, b and the space.
save(
    "reader.onnx",
    [
        node("Conv", ["x", "column"], ["steps"], strides=[1, 1]),
        node("Squeeze", ["steps", "height"], ["rows"]),
        node("Transpose", ["rows"], ["logits"], perm=[0, 2, 1]),
        node("Softmax", ["logits"], ["probabilities"], axis=2),
    ],
    [("x", ["N", 1, 8, "W"])],
    [("probabilities", ["N", "W", 4]), ("logits", ["N", "W", 4])],
    [weights("column", 4, 1, 8, 1), numpy_helper.from_array(np.array([2], np.int64), "height")],
    metadata=[("character", "a\nb")],
)
save("two_inputs.onnx", [node("Add", ["x", "y"], ["z"])], [("x", [1, 3, 8, 8]), ("y", [1, 3, 8, 8])], [("z", [1, 3, 8, 8])], [])
save("unsupported.onnx", [node("Guess", ["x"], ["z"], "guess", domain="own")], [("x", ["N", 3, "H", "W"])], [("z", ["N", 3])], [])
save("not_finite.onnx", [node("Neg", ["x"], ["below"]), node("Log", ["below"], ["y"]), node("Flatten", ["y"], ["z"])], [("x", [1, 3, 8, 8])], [("z", [1, 192])], [])
save("mixed_pictures.onnx", [node("Transpose", ["x"], ["z"], perm=[1, 0, 2, 3])], [("x", ["N", 3, "H", "W"])], [("z", [3, "N", "H", "W"])], [])
save("no_such_output.onnx", [node("Relu", ["x"], ["z"])], [("x", [1, 3, 8, 8])], [("elsewhere", [1, 3, 8, 8])], [])
save("vector.onnx", [node("Relu", ["x"], ["z"])], [("x", ["N", 192])], [("z", ["N", 192])], [])

pictures = np.sin(np.arange(2 * 3 * SIDE * SIDE) * 0.7 + 0.3).reshape(2, 3, SIDE, SIDE) * 1.1
pictures = pictures.astype(np.float32)


def prepared(picture, size):
    """Planes from 0 to 1, resized as PIL does; [3, height, width]."""
    planes = np.clip((picture + 1) / 2, 0, 1)
    resize = lambda plane: np.asarray(Image.fromarray(plane).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return np.stack([resize(plane) for plane in planes])


def run(model, x, output):
    session = onnxruntime.InferenceSession(model)
    return session.run([output], {session.get_inputs()[0].name: x.astype(np.float32)})[0][0].astype(float)


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


normalised = lambda planes: (planes - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
target = [1.0, -2.0, 0.5, 3.0]
expected = {"pictures": pictures.ravel().tolist(), "target": target}
cases = {name: [] for name in ["plain", "larger", "smaller", "bgr", "features", "cosine", "channels_last", "grey", "steps"]}
for picture in pictures:
    plain = prepared(picture, [SIDE, SIDE])[None]
    larger = normalised(prepared(picture, [13, 11]))[None]
    smaller = normalised(prepared(picture, [3, 5]))[None]
    last = prepared(picture, [5, 6])
    features = run("classifier.onnx", plain, "features")
    grey = np.tensordot([0.2126, 0.7152, 0.0722], np.clip((picture + 1) / 2, 0, 1), axes=1)
    cases["plain"].append(softmax(run("classifier.onnx", plain, "logits")).tolist())
    cases["larger"].append(softmax(run("classifier.onnx", larger, "logits")).tolist())
    cases["smaller"].append(softmax(run("classifier.onnx", smaller, "logits")).tolist())
    cases["bgr"].append(run("classifier.onnx", larger[:, ::-1], "logits").tolist())
    cases["features"].append(features.tolist())
    cases["cosine"].append(float(features @ target / np.linalg.norm(features) / np.linalg.norm(target)))
    cases["channels_last"].append(run("channels_last.onnx", 2 * last.transpose(1, 2, 0)[None] - 1, "probabilities").tolist())
    cases["grey"].append(softmax(run("classifier.onnx", np.stack([grey] * 3)[None], "logits")).tolist())
    cases["steps"].append(run("reader.onnx", grey[None, None], "probabilities").ravel().tolist())

json.dump(expected | cases, open("expected.json", "w"), indent=None)
