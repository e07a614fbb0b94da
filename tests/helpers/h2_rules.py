"""Where the `h2` library and we differ on purpose: each difference is a rule with its reason, and
the sections are those of RFC 9113.

A rule says, from a frame and h2's account of it, what the account should have been.  It doesn't
know ours, so that the corrected account is still another's judgement.
"""

from __future__ import annotations

from tests.helpers.h2_case import Rule
from tests.helpers.h2_rules_connection import (
    a_block_begins_with_headers,
    a_block_that_cannot_be_decoded_has_a_code,
    a_connection_begins_with_settings,
    a_length_is_judged_first,
    acknowledgements_of_settings_are_empty,
    blocks_are_not_interrupted,
    each_setting_is_judged,
    goaways_never_rise,
    nothing_is_pushed,
    only_our_ping_is_answered,
    padding_does_not_reach_into_priority,
    servers_open_no_streams,
    unknown_codes_are_internal_errors,
)
from tests.helpers.h2_rules_headers import (
    a_connect_has_an_authority,
    a_connect_is_not_extended,
    a_method_is_not_empty,
    a_status_has_three_digits,
    a_tunnel_carries_connect_to_addresses,
    informational_answers_are_few,
    informational_answers_are_not_told,
    malformed_messages_concern_a_stream,
    names_are_tokens,
    streams_above_the_limit_are_refused,
    trailers_are_not_told,
)
from tests.helpers.h2_rules_streams import (
    answers_on_what_is_over_are_ignored,
    blocks_after_the_end_concern_a_stream,
    data_before_an_answer_concerns_a_stream,
    idle_streams_cannot_be_reset,
    increments_of_0_concern_a_stream,
    lengths_of_priority_concern_a_stream,
    priorities_are_ignored,
    requests_on_what_the_peer_reset_are_refused,
    what_is_in_flight_after_our_reset_is_ignored,
    windows_of_streams_concern_streams,
)

RULES: tuple[Rule, ...] = (
    idle_streams_cannot_be_reset,
    lengths_of_priority_concern_a_stream,
    priorities_are_ignored,
    increments_of_0_concern_a_stream,
    data_before_an_answer_concerns_a_stream,
    windows_of_streams_concern_streams,
    what_is_in_flight_after_our_reset_is_ignored,
    requests_on_what_the_peer_reset_are_refused,
    answers_on_what_is_over_are_ignored,
    blocks_after_the_end_concern_a_stream,
    malformed_messages_concern_a_stream,
    names_are_tokens,
    a_connect_has_an_authority,
    a_connect_is_not_extended,
    a_method_is_not_empty,
    a_tunnel_carries_connect_to_addresses,
    a_status_has_three_digits,
    informational_answers_are_few,
    streams_above_the_limit_are_refused,
    trailers_are_not_told,
    informational_answers_are_not_told,
    only_our_ping_is_answered,
    unknown_codes_are_internal_errors,
    goaways_never_rise,
    acknowledgements_of_settings_are_empty,
    each_setting_is_judged,
    a_block_that_cannot_be_decoded_has_a_code,
    a_block_begins_with_headers,
    padding_does_not_reach_into_priority,
    servers_open_no_streams,
    nothing_is_pushed,
    blocks_are_not_interrupted,
    a_length_is_judged_first,
    a_connection_begins_with_settings,
)
"""In this order, each of what those before it have left: errors of the connection come last,
because they end it whatever else is wrong."""
