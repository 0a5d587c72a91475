"""Text to token ids and back, from three sources behind one interface.

The sources are a fixed vocabulary, for a task whose words are few and known; sentencepiece,
trained on a task's own text; and a tokenizer that came with a checkpoint. All three run as a
`tokenizer.json`, which Transformers reads too.

Training and sampling encode prompt and response separately, so the ids of a row are
`encode_prompt(prompt) + encode(response) + [end_id]`, wherever the text came from. The prompt is
encoded as the model's own tokenizer encodes it: after start-of-text if the model was trained so,
with the space that some tokenizers put before every text, or as a user's turn of a chat. The
response continues from there: nothing is put before it, and its tokens decode to exactly it.

Special tokens are never read from a text: `</s>` in a question is four characters. So only this
package produces the ids of end-of-text and of turns.
"""

from bstar_jax.tokenizer.chat import for_chat, read_variables, show
from bstar_jax.tokenizer.interface import (
    Prompt,
    Tokenizer,
    as_prompt,
    check_round_trip,
    tokens_at,
)
from bstar_jax.tokenizer.published import load
from bstar_jax.tokenizer.sources import train_sentencepiece, word_tokenizer

__all__ = [
    "Prompt",
    "Tokenizer",
    "as_prompt",
    "check_round_trip",
    "for_chat",
    "load",
    "read_variables",
    "show",
    "tokens_at",
    "train_sentencepiece",
    "word_tokenizer",
]
