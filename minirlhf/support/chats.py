"""Chat messages as one text, a transcript, in HH-RLHF's format:

    "\\n\\nHuman: Hi\\n\\nAssistant: Hello\\n\\nHuman: Bye\\n\\nAssistant:"      and the response      " See you"
"""

LONGEST = 20_000  # characters of a transcript before an answer; of more the oldest exchanges are left out
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
ROLES = {"user": "user", "human": "user", "prompter": "user", "assistant": "assistant", "gpt": "assistant",
         "chatgpt": "assistant", "model": "assistant", "bot": "assistant", "bard": "assistant", "bing": "assistant",
         "system": "system", "developer": "system", "tool": "tool", "function": "tool", "observation": "tool",
         "function_call": "tool", "function_response": "tool", "tool_call": "tool", "ipython": "tool"}  # fmt: skip


class LeftOut(Exception):
    """The reason why a valid row becomes none of our records."""


def transcript(messages):
    """[(role, before, own)] of chat messages, {"role", "content"} or {"from", "value"}. `own` is a message's text in
    the transcript, `before` all before it. A content may be a list of text parts. Raises LeftOut."""
    parts, text = [], ""
    if not isinstance(messages, list) or not messages:
        raise LeftOut("a conversation without messages, or not a list of them")
    for message in messages:
        role, content = role_and_text(message)
        if role == "system":
            before, own = text + "\n\n" if text else "", content
        else:
            before, own = text + (HUMAN if role == "user" else ASSISTANT), content and f" {content}"
        parts.append((role, before, own))
        text = recent(before + own)
    return parts


def recent(text):
    """A transcript without its oldest exchanges, if it is longer than any context here: else the parts of one with n
    turns would take the memory of n transcripts."""
    if len(text) <= LONGEST or HUMAN not in text:
        return text
    begins = text.find(HUMAN, len(text) - LONGEST)
    if begins < 0:
        begins = text.rfind(HUMAN)
    return text[: text.find(HUMAN)] + text[begins:]


def role_and_text(message):
    if not isinstance(message, dict):
        raise LeftOut("a message that is no object with a role and a content")
    role, content = role_of(message), message.get("content")
    content = message.get("value") if content is None else content
    if role == "tool" or message.get("tool_calls") or message.get("function_call"):
        raise LeftOut("a tool's message, or a call of one")
    if not role:
        given = str(message.get("role") or message.get("from"))
        raise LeftOut(f"a message needs a role (system, user, assistant); {given[:20]!r} is none")
    if isinstance(content, list):
        content = [part.get("text") if isinstance(part, dict) else part for part in content]
        if not all(isinstance(part, str) for part in content):
            raise LeftOut("a message with an image, or a part that is no text")
        content = "".join(content)
    if not isinstance(content, str):
        raise LeftOut("a message without content")
    return role, content


def role_of(message):
    """"system", "user", "assistant" or "tool" for a message, a dict; None if it names no role that we know."""
    role = message.get("role") or message.get("from")
    return ROLES.get(role.lower()) if isinstance(role, str) else None


def prompt_of(messages):
    """The transcript of a conversation that the user's message ends, up to where the assistant's answer begins."""
    role, before, own = transcript(messages)[-1]
    if role != "user":
        raise LeftOut("a prompt whose last message is not the user's")
    return before + own + ASSISTANT


def turns(prompt):
    """Where the exchanges of a transcript begin: the positions of "\\n\\nHuman:"."""
    found, at = [], prompt.find(HUMAN)
    while at >= 0:
        found.append(at)
        at = prompt.find(HUMAN, at + 1)
    return found


def without_turns(prompt, n):
    """A transcript without its n oldest exchanges, or None if it has no more than n."""
    if n == 0:
        return prompt
    begins = turns(prompt)
    return prompt[: begins[0]] + prompt[begins[n] :] if n < len(begins) else None
