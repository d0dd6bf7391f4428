// What a handler passes in may come from a client: bytes that would end a header line are replaced.
//
// Functions of the handler are called, and destroyed, after the lock is released, since they may call back.
#include "worker/serve/http/response.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace kvlink::serve {
namespace {

struct Reason {
  int status;
  absl::string_view text;
};
constexpr Reason kReasons[] = {
    {200, "OK"},
    {201, "Created"},
    {202, "Accepted"},
    {204, "No Content"},
    {304, "Not Modified"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {408, "Request Timeout"},
    {409, "Conflict"},
    {413, "Content Too Large"},
    {415, "Unsupported Media Type"},
    {417, "Expectation Failed"},
    {421, "Misdirected Request"},
    {422, "Unprocessable Content"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {499, "Client Closed Request"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {503, "Service Unavailable"},
    {504, "Gateway Timeout"},
    {505, "HTTP Version Not Supported"},
    {529, "Overloaded"},
};

absl::string_view ReasonOf(int status) {
  for (const Reason& reason : kReasons) {
    if (reason.status == status) return reason.text;
  }
  return "Other";
}

void AppendHeader(absl::string_view name, absl::string_view value, std::string* out) {
  const size_t begin = out->size();
  absl::StrAppend(out, name, ": ", value);
  for (size_t i = begin; i < out->size(); ++i) {
    const unsigned char c = static_cast<unsigned char>((*out)[i]);
    if ((c < 0x20 && c != '\t') || c == 0x7f) (*out)[i] = ' ';
  }
  out->append("\r\n");
}

std::string ErrorBody(int status, absl::string_view message) {
  const absl::string_view type = status < 500 ? "invalid_request_error" : "server_error";
  const std::string escaped = absl::StrReplaceAll(message, {{"\\", "\\\\"}, {"\"", "\\\""}});
  return absl::StrCat(R"({"error":{"message":")", escaped, R"(","type":")", type, R"("}})");
}

class Exchange : public HttpExchange {
 public:
  explicit Exchange(std::shared_ptr<Response> response) : response_(std::move(response)) {}
  ~Exchange() override { response_->Abandon(); }
  const HttpRequest& request() const override { return response_->request(); }
  void Respond(int status, absl::string_view content_type, std::string body, HttpHeaders headers) override {
    response_->Respond(status, content_type, std::move(body), headers);
  }
  void Begin(int status, absl::string_view content_type, HttpHeaders headers) override {
    response_->Begin(status, content_type, headers);
  }
  void Write(std::string piece) override { response_->Write(piece); }
  void End() override { response_->End(); }
  void OnGone(std::function<void()> gone) override { response_->OnGone(std::move(gone)); }

 private:
  const std::shared_ptr<Response> response_;
};

}  // namespace

std::shared_ptr<HttpExchange> MakeExchange(std::shared_ptr<Response> response) {
  return std::make_shared<Exchange>(std::move(response));
}

Response::Response(HttpRequest request, BodyCharge charge, const Framing& framing, int64_t max_unread_bytes,
                   std::shared_ptr<const std::atomic<bool>> draining, std::function<void()> wake)
    : request_(std::move(request)),
      charge_(std::move(charge)),
      framing_(framing),
      max_unread_bytes_(max_unread_bytes),
      draining_(std::move(draining)),
      wake_(std::move(wake)),
      keep_alive_(framing.keep_alive) {}

void Response::Respond(int status, absl::string_view content_type, std::string body, const HttpHeaders& headers) {
  std::function<void()> released;
  MutexLock lock(&mutex_);
  if (begun_ || closed_) return;
  AppendHead(status, content_type, headers, static_cast<int64_t>(body.size()));
  if (!bodiless_) {
    queued_.append(body);
    unread_ += static_cast<int64_t>(body.size());
  }
  ended_ = true;
  released = std::move(gone_);
  Wake();
}

void Response::Begin(int status, absl::string_view content_type, const HttpHeaders& headers) {
  MutexLock lock(&mutex_);
  if (begun_ || closed_) return;
  AppendHead(status, content_type, headers, -1);
  Wake();
}

void Response::Write(absl::string_view piece) {
  MutexLock lock(&mutex_);
  if (!begun_ || ended_ || closed_ || too_much_ || bodiless_ || piece.empty()) return;
  // A piece of any size may go out if the client has read all before it.
  if (unread_ > 0 && unread_ + static_cast<int64_t>(piece.size()) > max_unread_bytes_) {
    too_much_ = true;
    std::string().swap(queued_);  // frees it
    woken_ = false;               // it has been woken, but waits for the client
    return Wake();
  }
  const size_t before = queued_.size();
  if (chunked_) {
    absl::StrAppend(&queued_, absl::Hex(piece.size()), "\r\n", piece, "\r\n");
  } else {
    queued_.append(piece.data(), piece.size());
  }
  unread_ += static_cast<int64_t>(queued_.size() - before);
  Wake();
}

void Response::End() {
  std::function<void()> released;
  MutexLock lock(&mutex_);
  if (!begun_ || ended_ || closed_ || too_much_) return;
  if (chunked_ && !bodiless_) {
    queued_.append("0\r\n\r\n");
    unread_ += 5;
  }
  ended_ = true;
  released = std::move(gone_);
  Wake();
}

void Response::OnGone(std::function<void()> gone) {
  {
    MutexLock lock(&mutex_);
    if (ended_) return;
    if (!closed_) {
      gone.swap(gone_);
      return;
    }
  }
  gone();
}

void Response::Abandon() {
  bool begun = false;
  std::function<void()> released;
  {
    MutexLock lock(&mutex_);
    if (ended_ || closed_) return;
    begun = begun_;
    released = std::move(gone_);
    if (begun) {
      cut_off_ = true;
      Wake();
    }
  }
  if (!begun) Refuse({500, "the request was not answered"});
}

void Response::Refuse(const Refusal& refusal) {
  HttpHeaders headers;
  if (refusal.retry_after_seconds > 0) headers.emplace_back("Retry-After", absl::StrCat(refusal.retry_after_seconds));
  Respond(refusal.status, "application/json", ErrorBody(refusal.status, refusal.message), headers);
}

Response::State Response::Take(std::string* bytes) {
  MutexLock lock(&mutex_);
  woken_ = false;
  bytes->swap(queued_);
  return bytes->empty() ? StateLocked() : State::kOpen;
}

Response::State Response::state() const {
  MutexLock lock(&mutex_);
  return StateLocked();
}

Response::State Response::StateLocked() const {
  if (too_much_) return State::kUnread;
  if (unread_ > 0) return State::kOpen;
  if (cut_off_) return State::kCutOff;
  return ended_ ? State::kComplete : State::kOpen;
}

void Response::Sent(size_t bytes) {
  MutexLock lock(&mutex_);
  unread_ -= static_cast<int64_t>(bytes);
}

bool Response::ended() const {
  MutexLock lock(&mutex_);
  return ended_;
}

bool Response::keep_alive() const {
  MutexLock lock(&mutex_);
  return keep_alive_;
}

bool Response::Close() {
  std::function<void()> gone;
  bool missing = false;
  {
    MutexLock lock(&mutex_);
    if (closed_) return false;
    closed_ = true;
    missing = !ended_ || unread_ > 0;
    gone = std::move(gone_);
    std::string().swap(queued_);  // frees it
  }
  if (gone) gone();
  return missing;
}

void Response::AppendHead(int status, absl::string_view content_type, const HttpHeaders& headers, int64_t body_length) {
  begun_ = true;
  if (*draining_) keep_alive_ = false;
  bodiless_ = framing_.head || status == 204 || status == 304;
  const bool framed = status != 204 && status != 304;
  if (body_length < 0 && framed) {
    chunked_ = framing_.http11;
    if (!chunked_) keep_alive_ = false;  // the end of the connection is the end of the body
  }
  const size_t before = queued_.size();
  absl::StrAppend(&queued_, "HTTP/1.1 ", status, " ", ReasonOf(status), "\r\n");
  AppendHeader("Date", absl::FormatTime("%a, %d %b %E4Y %H:%M:%S GMT", absl::Now(), absl::UTCTimeZone()), &queued_);
  if (!content_type.empty()) AppendHeader("Content-Type", content_type, &queued_);
  for (const auto& [name, value] : headers) AppendHeader(name, value, &queued_);
  if (chunked_) queued_.append("Transfer-Encoding: chunked\r\n");
  if (body_length >= 0 && framed) absl::StrAppend(&queued_, "Content-Length: ", body_length, "\r\n");
  if (!keep_alive_) queued_.append("Connection: close\r\n");
  if (keep_alive_ && !framing_.http11) queued_.append("Connection: keep-alive\r\n");
  queued_.append("\r\n");
  unread_ += static_cast<int64_t>(queued_.size() - before);
}

void Response::Wake() {
  if (woken_) return;
  woken_ = true;
  wake_();
}

}  // namespace kvlink::serve
