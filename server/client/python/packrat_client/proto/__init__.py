"""The messages (`inference_pb2`) and the bare stub (`inference_pb2_grpc`) of proto/packrat/v1/inference.proto."""
