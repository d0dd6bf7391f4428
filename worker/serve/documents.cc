// The routes of documents: the store's catalog, and what writes to it.
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/status.h"
#include "worker/serve/api/errors.h"
#include "worker/serve/api/json.h"
#include "worker/serve/http/request.h"
#include "worker/serve/router.h"

namespace kvlink::serve {
namespace {

constexpr int64_t kDefaultListed = 100, kMaxListed = 1000;

// The value of a parameter of a query, decoded; empty if there is none. INVALID_ARGUMENT: a malformed escape.
absl::StatusOr<std::string> QueryValue(absl::string_view query, absl::string_view name) {
  for (const absl::string_view part : absl::StrSplit(query, '&')) {
    const std::pair<absl::string_view, absl::string_view> pair = absl::StrSplit(part, absl::MaxSplits('=', 1));
    if (pair.first != name) continue;
    std::optional<std::string> value = PercentDecode(absl::StrReplaceAll(pair.second, {{"+", " "}}));
    if (!value) return ParameterError(name, "has an escape that is not % and two digits");
    return *std::move(value);
  }
  return std::string();
}

OrderedJson DocumentJson(const std::string& id) { return {{"id", id}, {"object", "document"}}; }

absl::Status Missing(const std::string& id, const std::string& ns) {
  return absl::NotFoundError(absl::StrCat("there is no document ", Quoted(id), " in namespace '", ns, "'"));
}

}  // namespace

void Router::PutDocument(const CallPtr& call) {
  const absl::StatusOr<Json> json = ParseObject(call->request().body);
  if (!json.ok()) return call->Fail(json.status());
  absl::Status error;
  const Field body(*json, &error);
  body.RefuseOthers({"title", "text"});
  DocumentChange document;
  document.id = call->id;
  document.title = body["title"].TextOr("", kMaxTitleBytes);
  document.text = body["text"].Text();
  if (!error.ok()) return call->Fail(error);
  call->OnGone(nullptr);
  const auto written =
      Write(document, call->arrived() + options_.document_timeout, [this, &call] { return call->gone() || ended_; });
  if (absl::IsCancelled(written.status())) return call->Fail(absl::UnavailableError("the server is shutting down"));
  if (!written.ok()) return call->Fail(written.status());
  OrderedJson answer = DocumentJson(call->id);
  answer["generation"] = written->generation;
  answer["parts"] = written->parts;
  answer["tokens"] = written->tokens;
  answer["encoded_parts"] = written->encoded;
  answer["unchanged"] = written->unchanged;
  call->Respond(written->created ? 201 : 200, "application/json", Written(answer));
}

absl::StatusOr<ingest::DocumentWriter::Written> Router::Write(const DocumentChange& document, absl::Time deadline,
                                                              const std::function<bool()>& cancelled) const {
  KVLINK_RETURN_IF_ERROR(parts_.service->MayAsk());
  auto written =
      parts_.writer->Write(document.id, document.title, document.text, {.deadline = deadline, .cancelled = cancelled});
  // Of two deadlines that may have passed, this is the document's own.
  if (!written.ok() && SteadyNow() < deadline) return parts_.service->Heard(written.status());
  return written;
}

void Router::ShowDocument(const CallPtr& call) {
  const Service::Parts& parts = parts_.service->parts();
  const std::string& ns = parts.generator->options().ns;
  if (const absl::Status may = parts_.service->MayAsk(); !may.ok()) return call->Fail(may);
  const absl::StatusOr<CatalogEntry> entry = parts.store->GetDocument(ns, call->id);
  if (absl::IsNotFound(entry.status())) return call->Fail(Missing(call->id, ns));
  if (!entry.ok()) return call->Fail(parts_.service->Heard(entry.status()));
  OrderedJson answer = DocumentJson(call->id);
  answer["title"] = entry->title;
  answer["generation"] = entry->generation;
  answer["written_at"] = entry->written_at_us / 1000000;
  answer["tokens"] = 0;
  answer["parts"] = OrderedJson::array();
  int64_t tokens = 0;
  for (const CatalogPart& part : entry->parts) {
    tokens += static_cast<int64_t>(part.tokens.size());
    answer["parts"].push_back({{"tokens", part.tokens.size()}, {"begin", part.begin}, {"end", part.end}});
  }
  answer["tokens"] = tokens;
  call->RespondJson(Written(answer));
}

void Router::DeleteDocument(const CallPtr& call) {
  const Service::Parts& parts = parts_.service->parts();
  if (const absl::Status may = parts_.service->MayAsk(); !may.ok()) return call->Fail(may);
  const absl::Status status = parts.store->DeleteDocument(parts.generator->options().ns, call->id, /*generation=*/0);
  if (!status.ok()) return call->Fail(parts_.service->Heard(status));
  OrderedJson answer = DocumentJson(call->id);
  answer["deleted"] = true;
  call->RespondJson(Written(answer));
}

void Router::ListDocuments(const CallPtr& call) {
  const absl::StatusOr<std::string> after = QueryValue(call->request().query, "after");
  if (!after.ok()) return call->Fail(after.status());
  const absl::StatusOr<std::string> limit_text = QueryValue(call->request().query, "limit");
  if (!limit_text.ok()) return call->Fail(limit_text.status());
  int64_t limit = kDefaultListed;
  if (!limit_text->empty() && (!absl::SimpleAtoi(*limit_text, &limit) || limit < 1 || limit > kMaxListed)) {
    return call->Fail(ParameterError("limit", absl::StrCat("must be a number from 1 to ", kMaxListed)));
  }
  const Service::Parts& parts = parts_.service->parts();
  if (const absl::Status may = parts_.service->MayAsk(); !may.ok()) return call->Fail(may);
  // One more than asked for says whether there are more.
  const auto found = parts.store->ListDocuments(parts.generator->options().ns, *after, limit + 1);
  if (!found.ok()) return call->Fail(parts_.service->Heard(found.status()));
  OrderedJson data = OrderedJson::array();
  for (const store::DocumentInfo& info : *found) {
    if (static_cast<int64_t>(data.size()) == limit) break;
    OrderedJson one = DocumentJson(info.id);
    one["title"] = info.title;
    one["generation"] = info.generation;
    one["tokens"] = info.tokens;
    data.push_back(std::move(one));
  }
  call->RespondJson(Written(
      {{"object", "list"}, {"data", std::move(data)}, {"has_more", static_cast<int64_t>(found->size()) > limit}}));
}

}  // namespace kvlink::serve
