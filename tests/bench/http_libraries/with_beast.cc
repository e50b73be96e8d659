// with_beast PORT PACE_US: server-sent events by Boost.Beast's serializer over Asio.
#include <boost/asio.hpp>
#include <boost/beast.hpp>
#include <list>
#include <memory>
#include <string>

#include "steps.h"

namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;

class Stream;
std::list<std::shared_ptr<Stream>> streams;

class Stream : public std::enable_shared_from_this<Stream> {
 public:
  explicit Stream(tcp::socket socket) : socket_(std::move(socket)) {}
  void Read() {
    http::async_read(socket_, buffer_, request_,
                     [self = shared_from_this()](boost::beast::error_code error, size_t) {
                       if (!error) self->Begin();
                     });
  }
  // False: it is over.
  bool Step() {
    --left_;
    (writing_ ? waiting_ : out_).append(kEvent, kEventSize);
    if (!writing_) Write();
    return left_ > 0;
  }

 private:
  void Begin() {
    left_ = MaxTokens(request_.body().data(), request_.body().size());
    request_ = {};
    head_.result(http::status::ok);
    head_.set(http::field::content_type, "text/event-stream");
    head_.set(http::field::cache_control, "no-cache");
    head_.chunked(true);
    serializer_ = std::make_unique<http::response_serializer<http::empty_body>>(head_);
    writing_ = true;
    http::async_write_header(socket_, *serializer_,
                             [self = shared_from_this()](boost::beast::error_code error, size_t) {
                               self->serializer_ = nullptr;
                               self->OnWritten(error);
                             });
    streams.push_back(shared_from_this());
  }
  void Write() {
    writing_ = true;
    asio::async_write(socket_, http::make_chunk(asio::buffer(out_)),
                      [self = shared_from_this()](boost::beast::error_code error, size_t) {
                        self->out_.clear();
                        self->OnWritten(error);
                      });
  }
  void OnWritten(boost::beast::error_code error) {
    writing_ = false;
    if (error) return;
    if (!waiting_.empty()) {
      out_.swap(waiting_);
      return Write();
    }
    if (left_ > 0) return;
    writing_ = true;
    asio::async_write(socket_, http::make_chunk_last(),
                      [self = shared_from_this()](boost::beast::error_code error, size_t) {
                        self->writing_ = false;
                        if (!error) self->Read();
                      });
  }

  tcp::socket socket_;
  boost::beast::flat_buffer buffer_;
  http::request<http::string_body> request_;
  http::response<http::empty_body> head_;
  std::unique_ptr<http::response_serializer<http::empty_body>> serializer_;
  std::string out_, waiting_;
  int left_ = 0;
  bool writing_ = false;
};

void Accept(tcp::acceptor* acceptor) {
  acceptor->async_accept([=](boost::beast::error_code error, tcp::socket socket) {
    if (!error) {
      socket.set_option(tcp::no_delay(true));
      std::make_shared<Stream>(std::move(socket))->Read();
    }
    Accept(acceptor);
  });
}

void Watch(asio::posix::stream_descriptor* steps, const Engine* engine) {
  steps->async_wait(steps->wait_read, [=](boost::beast::error_code) {
    engine->Begin();
    streams.remove_if([](const std::shared_ptr<Stream>& stream) { return !stream->Step(); });
    engine->End(!streams.empty());
    Watch(steps, engine);
  });
}

}  // namespace

int main(int, char** argv) {
  asio::io_context loop(1);
  tcp::acceptor acceptor(loop);
  acceptor.open(tcp::v4());
  acceptor.set_option(tcp::acceptor::reuse_address(true));
  acceptor.bind({asio::ip::address_v4::loopback(), static_cast<uint16_t>(std::atoi(argv[1]))});
  acceptor.listen(4096);
  Accept(&acceptor);
  Engine engine(std::atoi(argv[2]));
  asio::posix::stream_descriptor steps(loop, engine.fd());
  Watch(&steps, &engine);
  loop.run();
}
