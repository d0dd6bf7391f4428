// Boost.Beast's parser, with what it leaves open: it counts a header's bytes anew with each piece, takes a body without
// a known coding for none, does not count what surrounds chunks, and lets a trailer add to the header. This is the only
// file that includes Beast.
#include "worker/serve/http/request_parser.h"

#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "worker/serve/http/request.h"

namespace kvlink::serve {

namespace http = boost::beast::http;
using boost::system::error_code;

// A body that takes what it needs from the budget. Its memory grows with the bytes that came, never with those that
// were announced.
struct ChargedBody {
  struct value_type {
    std::string bytes;
    BodyCharge charge;
    bool denied = false;
  };
  class reader {
   public:
    template <bool kIsRequest, class Fields>
    reader(http::header<kIsRequest, Fields>&, value_type& body) : body_(body) {}
    void init(const boost::optional<std::uint64_t>&, error_code& ec) { ec = {}; }
    template <class Buffers>
    size_t put(const Buffers& buffers, error_code& ec) {
      const size_t size = boost::asio::buffer_size(buffers);
      if (!body_.charge.Take(static_cast<int64_t>(size))) {
        body_.denied = true;
        ec = http::error::buffer_overflow;
        return 0;
      }
      for (auto piece = boost::asio::buffer_sequence_begin(buffers); piece != boost::asio::buffer_sequence_end(buffers);
           ++piece) {
        body_.bytes.append(static_cast<const char*>(piece->data()), piece->size());
      }
      ec = {};
      return size;
    }
    void finish(error_code& ec) { ec = {}; }

   private:
    value_type& body_;
  };
};

namespace {

constexpr size_t kMaxFields = 100;

// Called at the end of what stands before the bytes of a chunk, or of all that follows the last one.
struct ChunkHeader {
  void operator()(std::uint64_t, boost::beast::string_view, error_code&) { seen = true; }
  bool seen = false;
};

absl::string_view View(boost::beast::string_view text) { return {text.data(), text.size()}; }

constexpr Refusal kHeaderTooLarge = {431, "the header of the request is too large"};
constexpr Refusal kBodyTooLarge = {413, "the body of the request is too large"};
constexpr Refusal kNoRoom = {503, "the server is receiving too many large requests; try again in a second", 1};

Refusal RefusalOf(const error_code& ec) {
  if (ec == http::error::header_limit) return kHeaderTooLarge;
  if (ec == http::error::body_limit) return kBodyTooLarge;
  if (ec == http::error::bad_version) return {505, "the version of HTTP is neither 1.0 nor 1.1"};
  if (ec == http::error::bad_method) return {400, "this is not an HTTP request"};
  if (ec == http::error::bad_target) return {400, "the request target is malformed"};
  if (ec == http::error::bad_content_length) return {400, "the Content-Length is malformed"};
  if (ec == http::error::bad_transfer_encoding) return {400, "the Transfer-Encoding is malformed"};
  if (ec == http::error::bad_chunk || ec == http::error::bad_chunk_extension) return {400, "a chunk is malformed"};
  return {400, "the request is malformed"};
}

}  // namespace

class RequestParser::Impl {
 public:
  Impl(const HttpServer::Options& options, std::shared_ptr<BodyBudget> budget, std::string peer)
      : options_(options),
        max_header_(static_cast<size_t>(options.max_header_bytes)),
        budget_(std::move(budget)),
        peer_(std::move(peer)) {
    parser_.header_limit(static_cast<std::uint32_t>(options.max_header_bytes));
    parser_.body_limit(static_cast<std::uint64_t>(options.max_body_bytes));
    parser_.on_chunk_header(chunk_header_);
  }

  size_t Put(absl::string_view bytes) {
    size_t used = 0;
    if (header_ == 0) {  // empty lines in front of a request, which some clients send after a body
      while (used < bytes.size() && (bytes[used] == '\r' || bytes[used] == '\n')) ++used;
      if (skipped_ += used; skipped_ > max_header_) Refuse({400, "this is not an HTTP request"});
    }
    // Each turn takes something.
    while (used < bytes.size() && (state == State::kHeader || state == State::kBody)) {
      const size_t taken = PutOnce(bytes.substr(used));
      used += taken;
      if (taken == 0) break;
    }
    return used;
  }

  Parsed Take() {
    Parsed parsed;
    parsed.request = std::move(request_);
    parsed.request.body = std::move(parser_.get().body().bytes);
    parsed.charge = std::move(parser_.get().body().charge);
    parsed.framing = framing_;
    return parsed;
  }

  State state = State::kHeader;
  Refusal refusal;
  bool expects_continue = false;

 private:
  void Refuse(const Refusal& why) {
    if (state == State::kRefused) return;
    refusal = why;
    state = State::kRefused;
  }

  // The header, or in the body one thing at a time: what surrounds a chunk, or some of its bytes.
  size_t PutOnce(absl::string_view bytes) {
    error_code ec;
    chunk_header_.seen = false;
    const size_t taken = parser_.put({bytes.data(), bytes.size()}, ec);
    if (ec && ec != http::error::need_more) {
      Refuse(parser_.get().body().denied ? kNoRoom : RefusalOf(ec));
      return taken;
    }
    if (state == State::kHeader) {
      header_ += taken;
      const bool whole = parser_.is_header_done();
      if (header_ + (whole ? 0 : bytes.size() - taken) > max_header_) Refuse(kHeaderTooLarge);
      if (whole) FinishHeader();
    } else if ((taken == 0 ? bytes.size() : chunk_header_.seen ? taken : 0) > max_header_) {
      Refuse({400, "the extensions of a chunk, or a trailer, are too large"});
    }
    if (state == State::kBody && parser_.is_done()) state = State::kComplete;
    return taken;
  }

  void FinishHeader() {
    if (state == State::kRefused) return;
    const auto& message = parser_.get();
    framing_.http11 = message.version() == 11;
    framing_.keep_alive = parser_.keep_alive();
    request_.method = std::string(View(message.method_string()));
    framing_.head = request_.method == "HEAD";
    size_t hosts = 0, lengths = 0, codings = 0;
    for (const auto& field : message) {
      if (request_.headers.size() >= kMaxFields) return Refuse(kHeaderTooLarge);
      const absl::string_view value = View(field.value());
      if (field.name() == http::field::host) ++hosts;
      if (field.name() == http::field::content_length) {
        ++lengths;
        // Beast takes a list of equal numbers.
        if (value.find_first_not_of("0123456789") != absl::string_view::npos) ++lengths;
      }
      if (field.name() == http::field::transfer_encoding) {
        ++codings;
        if (!absl::EqualsIgnoreCase(value, "chunked")) {
          return Refuse({501, "the only transfer coding of requests is \"chunked\""});
        }
      }
      if (field.name() == http::field::expect) {
        if (!absl::EqualsIgnoreCase(value, "100-continue")) return Refuse({417, "the Expect header is unknown"});
        expects_continue = framing_.http11;
      }
      request_.headers.emplace_back(absl::AsciiStrToLower(View(field.name_string())), std::string(value));
    }
    if (hosts > 1 || (hosts == 0 && framing_.http11)) return Refuse({400, "the request needs one Host header"});
    if (lengths > 1) return Refuse({400, "the Content-Length is malformed"});
    if (codings > 1 || (codings > 0 && (lengths > 0 || !framing_.http11))) {
      return Refuse({400, "the Transfer-Encoding is malformed"});
    }
    if (request_.method == "CONNECT") return Refuse({501, "this server is no proxy"});
    auto target = ParseTarget(View(message.target()));
    if (!target.ok()) return Refuse({400, "the path of the request has a malformed or missing percent-encoding"});
    request_.path = std::move(target->path);
    request_.query = std::move(target->query);
    state = State::kBody;
    const auto length = static_cast<int64_t>(parser_.content_length().value_or(0));
    if (codings > 0 || length > 0) AdmitBody(length);
  }

  // `length`: 0 if it is not known.
  void AdmitBody(int64_t length) {
    std::optional<std::string> owner = peer_;
    if (options_.body_owner) owner = options_.body_owner(request_);
    if (!owner.has_value()) {  // what follows on the connection is not understood, since it is not read
      framing_.keep_alive = false;
      state = State::kComplete;
      return;
    }
    BodyCharge& charge = parser_.get().body().charge;
    charge = BodyCharge(budget_, owner->empty() ? peer_ : *std::move(owner), length);
    if (!charge.HasRoom()) Refuse(kNoRoom);
  }

  const HttpServer::Options& options_;
  const size_t max_header_;
  const std::shared_ptr<BodyBudget> budget_;
  const std::string peer_;
  ChunkHeader chunk_header_;
  http::request_parser<ChargedBody> parser_;
  size_t skipped_ = 0, header_ = 0;  // bytes
  HttpRequest request_;
  Framing framing_;
};

RequestParser::RequestParser(const HttpServer::Options& options, std::shared_ptr<BodyBudget> budget, std::string peer)
    : impl_(std::make_unique<Impl>(options, std::move(budget), std::move(peer))) {}
RequestParser::~RequestParser() = default;
size_t RequestParser::Put(absl::string_view bytes) { return impl_->Put(bytes); }
RequestParser::State RequestParser::state() const { return impl_->state; }
bool RequestParser::expects_continue() const { return impl_->expects_continue; }
const Refusal& RequestParser::refusal() const { return impl_->refusal; }
RequestParser::Parsed RequestParser::Take() { return impl_->Take(); }

}  // namespace kvlink::serve
