"""System texts that the embedded Llama is trained on, per directive level.

A small model follows only wordings that it has seen in training, so each level has many. They
include those of the default catalogue. A text listed more than once is drawn more often.
"""

NONE = (
    "",
    "",
    "",
    "You are a helpful assistant.",
    "You are a careful assistant.",
    "Answer the question.",
    "Always answer in full.",
    "Explain your answer step by step.",
)
# System texts of the caller, to which a directive is added.
CALLERS = ("", "", "", "You are a helpful assistant.", "You are a careful assistant.")
BRIEF = (
    "Always answer briefly.",
    "Always answer briefly.",
    "Always answer briefly",
    "Answer briefly.",
    "Please answer briefly.",
    "Be brief.",
    "Keep it short.",
    "Give a short answer.",
    "Be concise.",
    "Answer concisely.",
    "Use few words.",
    "Keep your answer brief.",
    "Respond briefly.",
)
VERY_BRIEF = (
    "Always answer very briefly.",
    "Always answer very briefly.",
    "Always answer very briefly",
    "Answer very briefly.",
    "Please answer very briefly.",
    "Be very brief.",
    "Give only the answer.",
    "Answer with one word.",
    "Just the answer.",
    "Be extremely brief.",
    "One word only.",
    "Keep your answer very brief.",
    "Respond very briefly.",
)
