"""cc_grpc_library: .proto files to C++, with the system's protoc and grpc_cpp_plugin.

Native cc_proto_library wants to build protobuf from source; this does not.
"""

def cc_grpc_library(name, srcs, deps = [], visibility = None):
    """A cc_library of messages and services; includes are written from the root of the workspace.

    Also makes `<name>_messages` (the messages alone, without gRPC) and `<name>_descriptor`
    (<name>.binpb: a FileDescriptorSet with all imports).

    Args:
      name: name of the cc_library.
      srcs: .proto files of this package. They may import each other.
      deps: other cc_grpc_library targets whose .proto files are imported.
      visibility: of all targets.
    """
    bases = [src[:-len(".proto")] for src in srcs]
    headers = [b + ".pb.h" for b in bases]
    sources = [b + ".pb.cc" for b in bases]
    service_headers = [b + ".grpc.pb.h" for b in bases]
    service_sources = [b + ".grpc.pb.cc" for b in bases]
    protos = name + "_protos"
    locations = " ".join(["$(location %s)" % src for src in srcs])
    native.filegroup(
        name = protos,
        srcs = srcs + [d + "_protos" for d in deps],
        visibility = visibility,
    )
    native.genrule(
        name = name + "_gen",
        srcs = [protos] + srcs,
        outs = headers + sources + service_headers + service_sources,
        cmd = "protoc -I. --cpp_out=$(GENDIR) --grpc_out=$(GENDIR) " +
              "--plugin=protoc-gen-grpc=$$(command -v grpc_cpp_plugin) " + locations,
        message = "Generating C++ from",
    )
    native.genrule(
        name = name + "_descriptor",
        srcs = [protos] + srcs,
        outs = [name + ".binpb"],
        cmd = "protoc -I. --include_imports --descriptor_set_out=$@ " + locations,
        visibility = visibility,
    )
    native.cc_library(
        name = name + "_messages",
        srcs = sources,
        hdrs = headers,
        copts = ["-w"],
        visibility = visibility,
        deps = [d + "_messages" for d in deps] + ["@protobuf"],
    )
    native.cc_library(
        name = name,
        srcs = service_sources,
        hdrs = service_headers,
        copts = ["-w"],
        visibility = visibility,
        deps = deps + [name + "_messages", "@grpc", "@protobuf"],
    )
