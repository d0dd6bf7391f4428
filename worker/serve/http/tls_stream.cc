// A BIO of our own, and not OpenSSL's for sockets: a write to a client that is gone must not raise SIGPIPE, and a
// socket that was closed meanwhile must not be mistaken for the next one with its number.
//
// It does not say that a connection has ended (BIO_CTRL_EOF): OpenSSL would take that for an error after which nothing
// can be written, but a client that has closed its side may still read its answer.
#include "worker/serve/http/tls_stream.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <utility>

namespace kvlink::serve {

struct TlsStream::Calls {
  static int Moved(BIO* bio, ssize_t bytes, bool reading) {
    BIO_clear_retry_flags(bio);
    if (bytes >= 0) return static_cast<int>(bytes);
    const int error = errno;
    if (error == EAGAIN || error == EWOULDBLOCK || error == EINTR) {
      reading ? BIO_set_retry_read(bio) : BIO_set_retry_write(bio);
    } else {
      StreamOf(bio).failed_ = error_code(error, boost::system::system_category());
    }
    return -1;
  }
  static int Read(BIO* bio, char* to, int size) {
    const int descriptor = StreamOf(bio).socket_.native_handle();
    return Moved(bio, recv(descriptor, to, static_cast<size_t>(size), MSG_DONTWAIT), /*reading=*/true);
  }
  static int Write(BIO* bio, const char* from, int size) {
    const int descriptor = StreamOf(bio).socket_.native_handle();
    const ssize_t sent = send(descriptor, from, static_cast<size_t>(size), MSG_DONTWAIT | MSG_NOSIGNAL);
    return Moved(bio, sent, /*reading=*/false);
  }
  static long Control(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }
  static TlsStream& StreamOf(BIO* bio) { return *static_cast<TlsStream*>(BIO_get_data(bio)); }

  // Null if memory is short.
  static const BIO_METHOD* Method() {
    static const BIO_METHOD* const method = [] {
      BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "connection");
      if (made != nullptr) {
        BIO_meth_set_read(made, Read);
        BIO_meth_set_write(made, Write);
        BIO_meth_set_ctrl(made, Control);
      }
      return made;
    }();
    return method;
  }
};

std::unique_ptr<TlsStream> TlsStream::Create(asio::ssl::context* context, Socket* socket) {
  if (Calls::Method() == nullptr) return nullptr;
  std::unique_ptr<TlsStream> stream(new TlsStream(socket));
  stream->tls_.reset(SSL_new(context->native_handle()));
  if (stream->tls_ == nullptr) return nullptr;
  BIO* const bio = BIO_new(Calls::Method());
  if (bio == nullptr) return nullptr;
  BIO_set_data(bio, stream.get());
  SSL_set_bio(stream->tls_.get(), bio, bio);
  SSL_set_mode(stream->tls_.get(),
               SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  return stream;
}

void TlsStream::Handshake(Done done) { Run(SSL_accept, std::move(done)); }

void TlsStream::ReadSome(asio::mutable_buffer to, Done done) {
  const int size = static_cast<int>(std::min<size_t>(to.size(), INT_MAX));
  Run([data = to.data(), size](SSL* tls) { return SSL_read(tls, data, size); }, std::move(done));
}

void TlsStream::WriteSome(asio::const_buffer from, Done done) {
  const int size = static_cast<int>(std::min<size_t>(from.size(), INT_MAX));
  Run([data = from.data(), size](SSL* tls) { return SSL_write(tls, data, size); }, std::move(done));
}

void TlsStream::ShutDown(Done done) {
  const auto step = [](SSL* tls) {
    const int result = SSL_shutdown(tls);
    return result == 0 ? 1 : result;  // 0: said, and the client has not said so yet
  };
  Run(step, std::move(done));
}

void TlsStream::Run(Step step, Done done, bool first) {
  failed_ = {};
  ERR_clear_error();
  const int result = step(tls_.get());
  const int kind = result > 0 ? SSL_ERROR_NONE : SSL_get_error(tls_.get(), result);
  // It is not said which of the two an operation waits for: a read may have to write first, and the reverse.
  if (kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE) {
    const auto what = kind == SSL_ERROR_WANT_READ ? Socket::wait_read : Socket::wait_write;
    return socket_.async_wait(what,
                              [this, step = std::move(step), done = std::move(done)](const error_code& ec) mutable {
                                ec ? done(ec, 0) : Run(std::move(step), std::move(done), /*first=*/false);
                              });
  }
  const error_code ec = kind == SSL_ERROR_NONE ? error_code() : ErrorOf(kind);
  const size_t bytes = result > 0 ? static_cast<size_t>(result) : 0;
  if (!first) return done(ec, bytes);
  asio::post(socket_.get_executor(), [done = std::move(done), ec, bytes] { done(ec, bytes); });
}

error_code TlsStream::ErrorOf(int kind) const {
  if (kind == SSL_ERROR_ZERO_RETURN) return asio::error::eof;
  if (failed_) return failed_;
  if (kind == SSL_ERROR_SYSCALL) return asio::ssl::error::stream_truncated;
  return asio::ssl::error::unexpected_result;  // what the client sent is not TLS as agreed
}

}  // namespace kvlink::serve
