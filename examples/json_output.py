"""Makes a model answer with JSON of a given shape: python examples/json_output.py [MODEL].

The schema becomes a grammar, and only tokens the grammar allows are sampled. Even a model that
knows nothing of JSON cannot leave it; whether the values make sense is up to the model.
"""

import json

from tiny import model_path

import edge_runtime as edge

SCHEMA = {
    "type": "object",
    "properties": {
        "animal": {"enum": ["cat", "dog", "bird"]},
        "legs": {"enum": [0, 2, 4]},
        "tame": {"type": "boolean"},
    },
    "required": ["animal", "legs", "tame"],
    "additionalProperties": False,
}

sampling = edge.Sampling(temperature=0.2, seed=1, json_schema=json.dumps(SCHEMA))
with edge.load(model_path(), context_tokens=512) as model:
    text = model.generate("Describe the animal as JSON:", max_tokens=128, sampling=sampling)
print(json.dumps(json.loads(text), indent=2))
