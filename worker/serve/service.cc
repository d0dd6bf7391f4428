// All documents of a request that are named are looked up in one call, before any of them is used.
#include "worker/serve/service.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <random>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/little_endian.h"
#include "base/status.h"
#include "worker/encode/stored_document.h"
#include "worker/serve/answer_filter.h"
#include "worker/serve/api/errors.h"
#include "worker/serve/api/json.h"

namespace kvlink::serve {
namespace {

// No token of a vocabulary is longer.
constexpr int64_t kMaxTokenBytes = 256;
constexpr absl::Duration kSilence = absl::Seconds(1);

int64_t BytesOf(const CompletionRequest& request) {
  size_t bytes = request.prompt ? request.prompt->size() : 0;
  for (const Message& message : request.messages) bytes += message.text.size();
  for (const DocumentReference& document : request.documents) bytes += document.title.size() + document.text.size();
  return static_cast<int64_t>(bytes);
}

absl::Status CheckTime(absl::Time deadline) {
  return SteadyNow() < deadline ? absl::OkStatus() : absl::DeadlineExceededError("the request timed out");
}

std::string Named(const DocumentReference& document, size_t index) {
  return document.id.empty() ? absl::StrCat("documents[", index, "]") : Quoted(document.id);
}

absl::StatusOr<link::Linker> LinkerOf(absl::string_view member, const std::string& name,
                                      const link::Linker& otherwise) {
  if (name.empty()) return otherwise;
  auto linker = link::ParseLinker(name);
  if (!linker.ok()) return ParameterError(member, linker.status().message());
  return linker;
}

kernels::SampleParams SamplingOf(const CompletionRequest& request) {
  kernels::SampleParams sampling;
  sampling.temperature = static_cast<float>(request.temperature);
  sampling.top_p = static_cast<float>(request.top_p);
  sampling.min_p = static_cast<float>(request.min_p);
  sampling.top_k = static_cast<int32_t>(request.top_k);
  thread_local std::mt19937_64 random{std::random_device{}()};
  sampling.seed = request.seed ? static_cast<uint64_t>(*request.seed) : random();
  return sampling;
}

absl::StatusOr<infer::AnswerRules> RulesOf(const CompletionRequest& request, int64_t vocab) {
  infer::AnswerRules rules;
  rules.presence_penalty = static_cast<float>(request.presence_penalty);
  rules.frequency_penalty = static_cast<float>(request.frequency_penalty);
  rules.repetition_penalty = static_cast<float>(request.repetition_penalty);
  for (const auto& [token, bias] : request.logit_bias) {
    if (token >= vocab) {
      return ParameterError(absl::StrCat("logit_bias.", token), absl::StrCat("is no token; the model has ", vocab));
    }
    rules.bias[token] = static_cast<float>(bias);
  }
  return rules;
}

}  // namespace

absl::Status Service::CheckModel(absl::string_view name) const {
  if (absl::c_linear_search(options_.models, name) || absl::c_linear_search(options_.synonyms, name)) {
    return absl::OkStatus();
  }
  return UnknownModelError(name);
}

bool Service::AsksStore(const CompletionRequest& request) {
  return request.kv.on_miss != KvOptions::OnMiss::kCompute ||
         absl::c_any_of(request.documents, [](const DocumentReference& document) { return !document.id.empty(); });
}

absl::Status Service::MayAsk() const {
  if (absl::ToUnixNanos(SteadyNow()) >= silent_until_.load()) return absl::OkStatus();
  return absl::UnavailableError("the store does not answer in time");
}

absl::Status Service::Heard(const absl::Status& answer) const {
  constexpr absl::string_view kFailed = "the store failed; the server's log says why";
  switch (answer.code()) {
    case absl::StatusCode::kDeadlineExceeded:
      silent_until_.store(absl::ToUnixNanos(SteadyNow() + kSilence));
      return WithCause(absl::UnavailableError(kFailed), answer);
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
      return WithCause(absl::UnavailableError(kFailed), answer);
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kUnknown:
      return WithCause(absl::InternalError(kFailed), answer);
    default:
      return answer;
  }
}

absl::StatusOr<std::vector<int32_t>> Service::Tokenize(absl::string_view text) const {
  KVLINK_RETURN_IF_ERROR(CheckBytes(static_cast<int64_t>(text.size())));
  return parts_.tokenizer->Encode(text, /*parse_special=*/false);
}

absl::StatusOr<infer::Scheduler::Job> Service::JobOf(const CompletionRequest& request, const std::string& owner,
                                                     absl::Time arrived, infer::Phase* catalog) const {
  KVLINK_RETURN_IF_ERROR(CheckBytes(BytesOf(request)));
  infer::Scheduler::Job job;
  KVLINK_ASSIGN_OR_RETURN(job.request.filter, FilterOf(request.format, parts_.generator->model().config(), filters_));
  if (request.kv.deadline_ms) job.deadline = arrived + absl::Milliseconds(*request.kv.deadline_ms);
  KVLINK_RETURN_IF_ERROR(CheckTime(job.deadline));
  KVLINK_ASSIGN_OR_RETURN(job.request.linker, LinkerOf("kv.linker", request.kv.linker, options_.linker));
  KVLINK_ASSIGN_OR_RETURN(job.request.documents,
                          DocumentsOf(request.documents, request.cache_salt, catalog, /*unknown=*/nullptr));
  KVLINK_RETURN_IF_ERROR(CheckTime(job.deadline));
  KVLINK_ASSIGN_OR_RETURN(job.request.prompt, PromptOf(request));
  if (request.kv.on_miss == KvOptions::OnMiss::kFail) {
    KVLINK_RETURN_IF_ERROR(CheckStored(job.request.documents, job.request.linker));
  } else if (request.kv.on_miss == KvOptions::OnMiss::kText) {
    MakeText(job.request.linker, &job.request.documents);
  }
  job.request.sampling = SamplingOf(request);
  KVLINK_ASSIGN_OR_RETURN(job.request.rules, RulesOf(request, parts_.generator->model().config().vocab));
  job.request.top_logprobs = request.top_logprobs;
  job.request.write_back = request.kv.store;
  const int64_t context = parts_.generator->model().config().context;
  const int64_t wanted = request.max_tokens > 0 ? request.max_tokens : options_.max_tokens;
  job.max_tokens = wanted > 0 ? wanted : context;
  // A number that the client gave has to fit; the API's and the server's own are limits only.
  const bool given = request.max_tokens > 0 && !request.default_max_tokens;
  job.request.answer_tokens = given ? std::min(request.max_tokens, context) : 1;
  job.owner = owner;
  return job;
}

absl::Status Service::CheckBytes(int64_t bytes) const {
  const int64_t context = parts_.generator->model().config().context;
  if (bytes <= context * kMaxTokenBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a text of ", bytes, " bytes cannot fit into the model's context of ", context, " tokens"));
}

absl::StatusOr<std::vector<infer::RequestDocument>> Service::DocumentsOf(
    const std::vector<DocumentReference>& references, absl::string_view salt, infer::Phase* catalog,
    std::vector<std::string>* unknown) const {
  const infer::GeneratorOptions& options = parts_.generator->options();
  std::vector<std::string> ids;
  for (const DocumentReference& document : references) {
    if (!document.id.empty()) ids.push_back(document.id);
  }
  std::vector<absl::StatusOr<CatalogEntry>> entries;
  if (!ids.empty()) {
    KVLINK_RETURN_IF_ERROR(MayAsk());
    const absl::Time began = SteadyNow();
    auto found = parts_.store->GetDocuments(options.ns, ids);
    catalog->Add(began, SteadyNow());
    KVLINK_RETURN_IF_ERROR(Heard(found.status()));
    entries = *std::move(found);
  }
  std::vector<std::string> missing;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!absl::IsNotFound(entries[i].status())) continue;
    missing.push_back(Quoted(ids[i]));
    if (unknown != nullptr) unknown->push_back(ids[i]);
  }
  if (!missing.empty() && unknown == nullptr) {
    return absl::NotFoundError(absl::StrCat("documents: ", absl::StrJoin(missing, ", "),
                                            missing.size() == 1 ? " is" : " are", " not in namespace '", options.ns,
                                            "'; GET /v1/documents lists its documents"));
  }
  const std::string secret = SharingSecret(options.tenant_secret, salt);
  std::vector<infer::RequestDocument> documents;
  size_t next = 0;
  for (size_t i = 0; i < references.size(); ++i) {
    const DocumentReference& document = references[i];
    if (document.id.empty()) {
      auto chunks =
          ingest::CutDocument(*parts_.tokenizer, options.profile, options_.document, document.title, document.text);
      if (!chunks.ok()) return ParameterError(Named(document, i), chunks.status().message());
      for (ingest::Chunk& chunk : *chunks) documents.push_back({std::move(chunk.tokens), secret});
      continue;
    }
    const absl::StatusOr<CatalogEntry>& entry = entries[next++];
    if (absl::IsNotFound(entry.status())) continue;
    KVLINK_RETURN_IF_ERROR(Heard(entry.status()));
    KVLINK_RETURN_IF_ERROR(
        encode::CheckEntry(document.id, *entry, parts_.fingerprint, options.tenant_secret, options.wrapper));
    encode::DocumentParts wanted{.id = document.id};
    if (!document.parts.empty()) {
      auto range = encode::ParsePartRange(document.id, document.parts);
      if (!range.ok()) return ParameterError(absl::StrCat("documents[", i, "].parts"), range.status().message());
      wanted = *std::move(range);
    }
    KVLINK_ASSIGN_OR_RETURN(std::vector<std::vector<int32_t>> parts, encode::PartsOf(*entry, wanted));
    for (std::vector<int32_t>& tokens : parts) documents.push_back({std::move(tokens)});
  }
  return documents;
}

absl::StatusOr<link::PromptTokens> Service::PromptOf(const CompletionRequest& request) const {
  if (!request.prompt) {
    std::vector<link::Turn> turns;
    for (const Message& message : request.messages) turns.push_back({message.role, message.text});
    return link::MakePrompt(*parts_.tokenizer, *parts_.chat->chat_template, parts_.chat->options,
                            parts_.generator->options().profile, turns);
  }
  link::PromptTokens prompt;
  if (const std::optional<int32_t> bos = parts_.tokenizer->bos()) prompt.before.push_back(*bos);
  KVLINK_ASSIGN_OR_RETURN(prompt.after, Tokenize(*request.prompt));
  return prompt;
}

std::vector<Identity> Service::IdentitiesOf(const std::vector<infer::RequestDocument>& documents,
                                            const link::Linker& linker) const {
  std::vector<Identity> identities;
  for (const infer::RequestDocument& document : documents) {
    identities.push_back(parts_.generator->IdentityOf(document.tokens, linker.packet, document.secret));
  }
  return identities;
}

absl::StatusOr<std::vector<store::Found>> Service::LookUp(const std::vector<Identity>& identities) const {
  const infer::GeneratorOptions& options = parts_.generator->options();
  KVLINK_RETURN_IF_ERROR(MayAsk());
  auto found = parts_.store->Lookup(options.ns, identities, options.codec);
  KVLINK_RETURN_IF_ERROR(Heard(found.status()));
  return found;
}

void Service::MakeText(const link::Linker& linker, std::vector<infer::RequestDocument>* documents) const {
  if (linker.base == link::Linker::kFull || documents->empty()) return;
  const std::vector<Identity> identities = IdentitiesOf(*documents, linker);
  const auto found = LookUp(identities);
  for (size_t i = 0; i < identities.size(); ++i) {
    const bool stored = found.ok() && (*found)[i].present;
    (*documents)[i].text = !stored && parts_.generator->pool().Find(identities[i]) == nullptr;
  }
}

absl::StatusOr<Service::Prefetch> Service::PrefetchOf(const PrefetchRequest& request) const {
  int64_t text_bytes = 0;
  for (const DocumentReference& document : request.documents) {
    text_bytes += static_cast<int64_t>(document.title.size() + document.text.size());
  }
  KVLINK_RETURN_IF_ERROR(CheckBytes(text_bytes));
  KVLINK_ASSIGN_OR_RETURN(const link::Linker linker, LinkerOf("linker", request.linker, options_.linker));
  Prefetch prefetch;
  infer::Phase unused;
  KVLINK_ASSIGN_OR_RETURN(const std::vector<infer::RequestDocument> documents,
                          DocumentsOf(request.documents, request.cache_salt, &unused, &prefetch.unknown));
  if (linker.base == link::Linker::kFull || documents.empty()) return prefetch;
  const std::vector<Identity> identities = IdentitiesOf(documents, linker);
  KVLINK_ASSIGN_OR_RETURN(const std::vector<store::Found> found, LookUp(identities));
  const infer::GeneratorOptions& options = parts_.generator->options();
  const int64_t around = linker.packet ? options.wrapper.tokens() : 0;
  int64_t bytes = 0;
  for (size_t i = 0; i < documents.size(); ++i) {
    if (parts_.generator->pool().Find(identities[i]) != nullptr) {
      ++prefetch.resident;
    } else if (!found[i].present) {
      ++prefetch.missing;
    } else {
      ++prefetch.found;
      bytes += found[i].bytes;
      if (bytes > options.resident_budget_bytes / 2) continue;
      prefetch.wanted.push_back({identities[i], static_cast<int64_t>(documents[i].tokens.size()) + around});
    }
  }
  return prefetch;
}

absl::Status Service::CheckStored(const std::vector<infer::RequestDocument>& documents,
                                  const link::Linker& linker) const {
  if (linker.base == link::Linker::kFull || documents.empty()) return absl::OkStatus();
  const auto found = LookUp(IdentitiesOf(documents, linker));
  KVLINK_RETURN_IF_ERROR(found.status());
  std::vector<std::string> missing;
  for (size_t i = 0; i < found->size(); ++i) {
    if (!(*found)[i].present) missing.push_back(absl::StrCat(i + 1));
  }
  if (missing.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "kv.on_miss is \"fail\", and the store lacks the encodings of ", missing.size(), " of ", found->size(),
      " documents and parts of documents, counted in their order: ", absl::StrJoin(missing, ", ")));
}

std::string SharingSecret(absl::string_view tenant_secret, absl::string_view salt) {
  if (salt.empty()) return "";
  std::string record = "KVLINKSG";
  AppendField<uint32_t>(1, &record);
  for (const absl::string_view part : {tenant_secret, salt}) {
    AppendField(static_cast<uint32_t>(part.size()), &record);
    record.append(part.data(), part.size());
  }
  Sha256 hash;
  hash.Update(record);
  const std::array<uint8_t, 32> secret = hash.Finish();
  return std::string(secret.begin(), secret.end());
}

int64_t PromptTokensOf(const infer::Request& request, const infer::GeneratorOptions& options) {
  const int64_t around = request.linker.packet ? options.wrapper.tokens() : 0;
  int64_t tokens = static_cast<int64_t>(request.prompt.before.size() + request.prompt.after.size());
  for (const infer::RequestDocument& document : request.documents) {
    tokens += static_cast<int64_t>(document.tokens.size()) + (document.text ? 0 : around);
  }
  return tokens;
}

Usage UsageOf(const infer::RequestStats& stats, int64_t completion_tokens) {
  Usage usage;
  usage.prompt_tokens = stats.prompt_tokens;
  usage.cached_tokens = stats.read_tokens;
  usage.stored_tokens = stats.stored_tokens;
  usage.completion_tokens = completion_tokens;
  usage.resident = stats.documents_resident;
  usage.host = stats.documents_host;
  usage.dram = stats.documents_dram;
  usage.disk = stats.documents_disk;
  usage.encoded = stats.documents_encoded;
  usage.text = stats.documents_text;
  usage.first_token_ms = absl::ToDoubleMilliseconds(stats.time_to_first_token);
  return usage;
}

}  // namespace kvlink::serve
