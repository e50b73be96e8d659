import contextlib
import io
import os
import tempfile
import unittest

from tests.tools import check_layers


def broken(path, text):
    return [line for line, _ in check_layers.check_file(path, text)]


class CheckLayersTest(unittest.TestCase):

    def test_includes_go_downwards_only(self):
        self.assertEqual(broken("runtime/engine.cc", '#include "models/model.h"\n'), [])
        self.assertEqual(broken("kernels/a.h", '\n#include "models/model.h"\n'), [2])
        self.assertEqual(broken("models/a.cc", '#include "runtime/engine.h"\n'), [1])
        self.assertEqual(broken("server/a.cc", '#  include "tests/fake.h"\n'), [1])
        self.assertEqual(broken("tests/runtime/a.cc", '#include "server/server.h"\n'), [])

    def test_only_the_server_knows_the_network(self):
        for header in ("grpcpp/grpcpp.h", "prometheus/counter.h", "boost/beast/http.hpp", "proto/a.pb.h"):
            self.assertEqual(broken("runtime/a.cc", "#include <%s>\n" % header), [1], header)
            self.assertEqual(broken("server/a.cc", "#include <%s>\n" % header), [], header)

    def test_generation_knows_no_transport(self):
        for header in ("grpc/grpc.h", "grpcpp/grpcpp.h", "boost/asio.hpp", "server/grpc/call_info.h",
                       "server/http/http_server.h", "proto/packrat/v1/inference.grpc.pb.h"):
            self.assertEqual(broken("server/generation/a.cc", '#include "%s"\n' % header), [1], header)
            self.assertEqual(broken("server/grpc/a.cc", '#include "%s"\n' % header), [], header)
        self.assertEqual(broken("server/generation/a.cc", '#include "proto/packrat/v1/inference.pb.h"\n'), [])

    def test_libraries_that_mislead_sanitizers(self):
        self.assertEqual(broken("server/a.cc", '#include "absl/synchronization/mutex.h"\n'), [1])
        self.assertEqual(broken("server/a.cc", '#include "absl/strings/str_cat.h"\n'), [])

    def test_classes_have_names_of_their_own(self):
        files = {
            "models/a.h": "namespace packrat {\nclass A {\n};\nstruct B;\nclass A::Impl {\n}  // namespace packrat\n",
            "server/b.h": "namespace packrat {\nstruct B {\n};\nnamespace {\nclass A : public B {\n};\n"
                          "}  // namespace\nnamespace v1 {\nclass A {\n};\n}  // namespace v1\n"
                          "}  // namespace packrat\n",
            "runtime/c.cc": "namespace packrat::gpu {\nclass A {\n};\n}  // namespace packrat::gpu\n",
            "tests/d.h": "namespace packrat {\nclass A {\n};\n}  // namespace packrat\n",
        }
        self.assertEqual(self.said(files), "")
        files["server/e.cc"] = "namespace packrat {\nnamespace {\n}  // namespace\n\nclass A final : public B {\n"
        self.assertEqual(self.said(files), "server/e.cc:5: models/a.h:2 has another class A\n")

    def said(self, files):
        with tempfile.TemporaryDirectory() as root, contextlib.redirect_stdout(io.StringIO()) as out:
            for path, text in files.items():
                os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
                with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                    file.write(text)
            self.assertEqual(check_layers.main(root, list(files)), 1 if out.getvalue() else 0)
        return out.getvalue()

    def test_python_compiles(self):
        self.assertEqual(broken("models/a.py", "x = 1\n"), [])
        self.assertEqual(broken("models/a.py", "x = 1\ny = = 2\n"), [2])


if __name__ == "__main__":
    unittest.main()
