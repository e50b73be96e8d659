"""cc_grpc_library: .proto files to C++, with the system's protoc and grpc_cpp_plugin.

Native cc_proto_library wants to build protobuf from source; this does not.
"""

def cc_grpc_library(name, srcs, deps = [], visibility = None):
    """A cc_library of messages and services; includes are written from the root of the workspace.

    Also makes `<name>_descriptor` (<name>.binpb: a FileDescriptorSet with all imports).

    Args:
      name: name of the cc_library.
      srcs: .proto files of this package. They may import each other.
      deps: other cc_grpc_library targets whose .proto files are imported.
      visibility: of all targets.
    """
    bases = [src[:-len(".proto")] for src in srcs]
    headers = [b + e for b in bases for e in [".pb.h", ".grpc.pb.h"]]
    sources = [b + e for b in bases for e in [".pb.cc", ".grpc.pb.cc"]]
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
        outs = headers + sources,
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
        name = name,
        srcs = sources,
        hdrs = headers,
        copts = ["-w"],
        visibility = visibility,
        deps = deps + ["@grpc", "@protobuf"],
    )
