// What a person at a terminal is told to open and to type.
#include "server/start_message.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace packrat {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(StartMessageTest, WhatIsTypedIsAsShortAsItCanBe) {
  const std::string message = StartMessage(ServerOptions(), 50051, 8080, "packrat");
  EXPECT_THAT(message, HasSubstr(" http://127.0.0.1:8080/\n"));
  EXPECT_THAT(message, HasSubstr(" packrat chat\n"));
  EXPECT_THAT(message, Not(HasSubstr("PACKRAT_API_KEY")));
}

TEST(StartMessageTest, AddressesAreThoseThatWereOpened) {
  ServerOptions options;
  options.listen = "127.0.0.1:0";
  options.http_listen = ":0";
  std::string message = StartMessage(options, 41001, 41002, "./dev packrat");
  EXPECT_THAT(message, HasSubstr(" http://localhost:41002/\n"));
  EXPECT_THAT(message, HasSubstr(" ./dev packrat chat --address=127.0.0.1:41001\n"));
  options.listen = "unix:/run/packrat";
  options.http_listen = "[::1]:0";
  message = StartMessage(options, 0, 41002, "packrat");
  EXPECT_THAT(message, HasSubstr(" http://[::1]:41002/\n"));
  EXPECT_THAT(message, HasSubstr(" packrat chat --address=unix:/run/packrat\n"));
}

TEST(StartMessageTest, WithoutAPageNothingIsOpened) {
  ServerOptions options;
  options.http_page = false;
  EXPECT_THAT(StartMessage(options, 50051, 8080, "packrat"), Not(HasSubstr("http")));
  EXPECT_THAT(StartMessage(ServerOptions(), 50051, 0, "packrat"), Not(HasSubstr("http")));
}

TEST(StartMessageTest, WhatCallsNeedIsSaid) {
  ServerOptions options;
  options.tls_certificate = "server.pem";
  options.tls_client_ca = "clients.pem";
  options.api_keys = "keys";
  std::string message = StartMessage(options, 50051, 8080, "packrat");
  EXPECT_THAT(message, HasSubstr("https://"));
  EXPECT_THAT(message, HasSubstr("chat --tls_ca=FILE --tls_certificate=FILE --tls_key=FILE\n"));
  EXPECT_THAT(message, HasSubstr("PACKRAT_API_KEY"));
  options.http_tls = false;
  EXPECT_THAT(StartMessage(options, 50051, 8080, "packrat"), HasSubstr(" http://"));
}

}  // namespace
}  // namespace packrat
