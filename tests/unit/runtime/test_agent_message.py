"""The light view on a wire object."""

from agentlayers.runtime.message import AgentMessage, ToolResult, ToolUse, text_of, user_message


def test_unknown_keys_are_kept_in_raw() -> None:
    raw = {"type": "assistant", "new_field": [1, {"a": None}], "message": {"content": []}}

    assert raw == AgentMessage(raw).raw


def test_an_assistant_message_shows_its_text_and_tool_uses() -> None:
    message = AgentMessage(
        {
            "type": "assistant",
            "session_id": "s",
            "uuid": "u",
            "parent_tool_use_id": "toolu_parent",
            "message": {
                "content": [
                    {"type": "text", "text": "a"},
                    {
                        "type": "tool_use",
                        "id": "toolu_1",
                        "name": "read_file",
                        "input": {"path": "x"},
                    },
                    {"type": "text", "text": "b"},
                ]
            },
        }
    )

    assert message.text == "a\nb"
    assert (ToolUse("toolu_1", "read_file", {"path": "x"}),) == message.tool_uses
    assert (message.session_id, message.uuid, message.parent_tool_use_id) == (
        "s",
        "u",
        "toolu_parent",
    )


def test_the_structured_result_belongs_to_the_only_tool_result() -> None:
    block = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "told", "is_error": True}
    one = AgentMessage({"type": "user", "message": {"content": [block]}, "tool_use_result": {"a": 1}})
    two = AgentMessage({"type": "user", "message": {"content": [block, block]}, "tool_use_result": {"a": 1}})

    assert (ToolResult("toolu_1", "told", is_error=True, structured={"a": 1}),) == one.tool_results
    assert [None, None] == [result.structured for result in two.tool_results]


def test_a_result_shows_its_text_and_whether_it_failed() -> None:
    message = AgentMessage({"type": "result", "subtype": "success", "result": "done", "is_error": True})

    assert (message.is_result, message.is_error, message.text) == (True, True, "done")


def test_malformed_wire_objects_show_nothing_instead_of_failing() -> None:
    for raw in (
        {},
        {"type": 7, "session_id": None, "uuid": 3},
        {"type": "user", "message": "text"},
        {
            "type": "user",
            "message": {"content": [None, "x", {"type": "text"}, {"type": "tool_use"}]},
        },
    ):
        message = AgentMessage(raw)

        assert message.text == ""
        assert message.session_id == ""
        assert all(use.input == {} for use in message.tool_uses)


def test_a_user_message_has_the_shape_of_the_wire() -> None:
    message = user_message("hi", session_id="s", uuid="u")

    assert "hi" == AgentMessage(message).text == text_of(message["message"]["content"])
    assert ("s", "u") == (message["session_id"], message["uuid"])
