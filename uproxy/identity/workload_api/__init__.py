"""The SPIFFE Workload API client: one gRPC stream over h2, watched for as long as uProxy runs.

framing     gRPC's length prefix, statuses and percent-encoding        pure
grpc        one server-streaming call as bytes in, events out          pure, over h2
supervisor  what a message, an ending or the passing of time means     pure
stream      the socket under one call                                  asyncio
source      the identity source that puts them together               asyncio
"""
