// What a client sends over one connection of the HTTP server: requests, one behind the other. The first byte chooses
// the limits and who owns bodies, the second where the bytes are cut. However they are cut, the same requests are
// handed on, all of them within the limits, and each is what a second, simple reading finds in its bytes.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "worker/serve/http/body_budget.h"
#include "worker/serve/http/request_parser.h"
#include "worker/serve/http/server.h"

namespace {

using namespace kvlink::serve;
using State = RequestParser::State;

void Check(bool right) {
  if (!right) std::abort();
}

HttpServer::Options OptionsOf(uint8_t choice) {
  HttpServer::Options options;
  options.max_header_bytes = (choice & 1) != 0 ? 200 : 2000;
  options.max_body_bytes = (choice & 2) != 0 ? 100 : 2000;
  options.max_bodies_bytes = 4 * options.max_body_bytes;  // one such body for each owner
  if ((choice & 4) != 0) {
    options.body_owner = [](const HttpRequest& head) -> std::optional<std::string> {
      if (head.path == "/unwanted") return std::nullopt;
      return std::string(head.header("x-api-key"));
    };
  }
  return options;
}

struct Handed {
  HttpRequest request;
  BodyCharge charge;
  Framing framing;
  bool expects_continue = false;
  size_t begin = 0, end = 0;  // of its bytes
};

// What came of a connection whose handler keeps all bodies.
struct Outcome {
  std::vector<Handed> requests;
  State state = State::kHeader;  // of what follows them; kComplete: the connection ends with the last one
  int status = 0;                // of the refusal
};

// As Connection does it. `cut`: how many of so many bytes come next.
Outcome Feed(const HttpServer::Options& options, const std::shared_ptr<BodyBudget>& budget, absl::string_view bytes,
             const std::function<size_t(size_t)>& cut) {
  Outcome outcome;
  std::unique_ptr<RequestParser> parser;
  std::string input;
  for (size_t given = 0, begin = 0; given < bytes.size();) {
    const size_t piece = cut(bytes.size() - given);
    input.append(bytes.data() + given, piece);
    given += piece;
    while (!input.empty()) {
      if (parser == nullptr) parser = std::make_unique<RequestParser>(options, budget, "peer");
      const size_t used = parser->Put(input);
      Check(used <= input.size());
      input.erase(0, used);
      outcome.state = parser->state();
      if (outcome.state == State::kRefused) {
        outcome.status = parser->refusal().status;
        Check(outcome.status >= 400 && *parser->refusal().message != '\0');
        return outcome;
      }
      if (outcome.state != State::kComplete) {
        Check(input.size() <= static_cast<size_t>(options.max_header_bytes));
        break;
      }
      const bool expects_continue = parser->expects_continue();
      RequestParser::Parsed parsed = parser->Take();
      parser.reset();
      const size_t end = given - input.size();
      outcome.requests.push_back(
          {std::move(parsed.request), std::move(parsed.charge), parsed.framing, expects_continue, begin, end});
      if (!parsed.framing.keep_alive) return outcome;
      outcome.state = State::kHeader;
      begin = end;
    }
  }
  return outcome;
}

// The line up to the next end of a line, which it takes away, too. Nothing: there is none.
std::optional<absl::string_view> TakeLine(absl::string_view* bytes) {
  const size_t end = bytes->find("\r\n");
  if (end == absl::string_view::npos) return std::nullopt;
  const absl::string_view line = bytes->substr(0, end);
  bytes->remove_prefix(end + 2);
  return line;
}

// The body that all of `bytes` are the chunks of.
std::string Unchunked(absl::string_view bytes) {
  std::string body;
  while (true) {
    const std::optional<absl::string_view> line = TakeLine(&bytes);
    Check(line.has_value());
    const size_t digits = std::min(line->find_first_not_of("0123456789abcdefABCDEF"), line->size());
    Check(digits == line->size() || absl::StrContains("; \t", (*line)[digits]));
    size_t size = 0;
    Check(absl::SimpleHexAtoi(line->substr(0, digits), &size));
    if (size == 0) break;
    Check(size < bytes.size());
    body.append(bytes.data(), size);
    bytes.remove_prefix(size);
    Check(TakeLine(&bytes) == "");
  }
  for (std::optional<absl::string_view> line = TakeLine(&bytes); line != ""; line = TakeLine(&bytes)) {
    Check(line.has_value());
  }
  Check(bytes.empty());
  return body;
}

void CheckFields(const HttpRequest& request) {
  Check(request.headers.size() <= 100);
  for (const auto& [name, value] : request.headers) {
    Check(!name.empty());
    for (const char c : name) Check(absl::ascii_isgraph(static_cast<unsigned char>(c)) && !absl::ascii_isupper(c));
    for (const char c : value) Check(!absl::ascii_iscntrl(static_cast<unsigned char>(c)) || c == '\t');
  }
}

// `bytes`: those that the request was taken from.
void CheckRequest(const HttpServer::Options& options, absl::string_view bytes, const Handed& one) {
  const HttpRequest& request = one.request;
  bytes.remove_prefix(std::min(bytes.find_first_not_of("\r\n"), bytes.size()));
  const size_t end = bytes.find("\r\n\r\n");
  Check(end != absl::string_view::npos);
  Check(end + 4 <= static_cast<size_t>(options.max_header_bytes));
  absl::string_view rest = bytes.substr(end + 4), header = bytes.substr(0, end + 2);
  const absl::string_view first = TakeLine(&header).value();
  Check(!request.method.empty() && request.method != "CONNECT");
  Check(absl::StartsWith(first, absl::StrCat(request.method, " ")));
  Check(absl::EndsWith(first, one.framing.http11 ? " HTTP/1.1" : " HTTP/1.0"));
  Check(one.framing.head == (request.method == "HEAD"));
  Check(request.path == "*" || absl::StartsWith(request.path, "/"));
  Check(request.path.find('\0') == std::string::npos);
  CheckFields(request);

  const auto count = [&](absl::string_view name) {
    return std::count_if(request.headers.begin(), request.headers.end(),
                         [&](const auto& field) { return field.first == name; });
  };
  const auto lengths = count("content-length"), codings = count("transfer-encoding");
  Check(count("host") == 1 || (count("host") == 0 && !one.framing.http11));
  Check(lengths + codings <= 1);
  Check(codings == 0 || (one.framing.http11 && absl::EqualsIgnoreCase(request.header("transfer-encoding"), "chunked")));
  Check(one.expects_continue == (one.framing.http11 && count("expect") > 0));
  size_t length = 0;
  Check(lengths == 0 || absl::SimpleAtoi(request.header("content-length"), &length));
  Check(request.body.size() <= static_cast<size_t>(options.max_body_bytes));
  if ((codings > 0 || length > 0) && options.body_owner && !options.body_owner(request).has_value()) {
    Check(request.body.empty() && rest.empty() && !one.framing.keep_alive);
  } else if (codings > 0) {
    Check(Unchunked(rest) == request.body);
  } else {
    Check(rest == request.body && rest.size() == length);
  }
}

bool Same(const Handed& a, const Handed& b) {
  return a.request.method == b.request.method && a.request.path == b.request.path &&
         a.request.query == b.request.query && a.request.headers == b.request.headers &&
         a.request.body == b.request.body && a.framing.http11 == b.framing.http11 && a.framing.head == b.framing.head &&
         a.framing.keep_alive == b.framing.keep_alive && a.expects_continue == b.expects_continue &&
         a.begin == b.begin && a.end == b.end;
}

// Of the same bytes, `cut` came in pieces.
void Compare(const Outcome& whole, const Outcome& cut) {
  Check(whole.requests.size() == cut.requests.size());
  for (size_t i = 0; i < whole.requests.size(); ++i) Check(Same(whole.requests[i], cut.requests[i]));
  // What is malformed may be noticed sooner or later, and may by then be too large instead.
  Check(whole.state == cut.state || whole.state == State::kRefused || cut.state == State::kRefused);
}

// All bodies, and only they, are charged, and only as long as they are there.
void CheckBudget(const HttpServer::Options& options, BodyBudget* budget, Outcome outcome) {
  const int64_t share = options.max_bodies_bytes / 4;
  int64_t bytes = 0;
  for (const Handed& one : outcome.requests) bytes += static_cast<int64_t>(one.request.body.size());
  if (!options.body_owner) {
    Check(bytes <= share);
    Check(budget->Has("peer", share - bytes, 0) && !budget->Has("peer", share - bytes + 1, 0));
  }
  outcome.requests.clear();
  for (const char* owner : {"peer", "a", "b", "c"}) Check(budget->Take(owner, share, 0));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const HttpServer::Options options = OptionsOf(data[0]);
  const absl::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  std::minstd_rand random(data[1]);
  const std::function<size_t(size_t)> cuts[] = {
      [](size_t left) { return left; },
      [](size_t) { return size_t{1}; },
      [&](size_t left) { return std::min<size_t>(left, 1 + random() % (1 + random() % 100)); },
  };
  std::vector<std::shared_ptr<BodyBudget>> budgets;
  std::vector<Outcome> outcomes;
  for (const auto& cut : cuts) {
    budgets.push_back(std::make_shared<BodyBudget>(options.max_bodies_bytes));
    outcomes.push_back(Feed(options, budgets.back(), bytes, cut));
  }
  for (const Handed& one : outcomes[0].requests)
    CheckRequest(options, bytes.substr(one.begin, one.end - one.begin), one);
  Compare(outcomes[0], outcomes[1]);
  Compare(outcomes[0], outcomes[2]);
  for (size_t i = 0; i < outcomes.size(); ++i) CheckBudget(options, budgets[i].get(), std::move(outcomes[i]));
  return 0;
}
