// kvlink serve: answers requests over HTTP from the documents of a store.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/cli/end_signals.h"
#include "base/cli/reload.h"
#include "base/clock.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "store/cli/place.h"
#include "store/node/access.h"
#include "store/node/watch/log.h"
#include "transport/address.h"
#include "worker/cli/commands.h"
#include "worker/cli/generator_flags.h"
#include "worker/cli/open.h"
#include "worker/encode/encoder.h"
#include "worker/infer/scheduler.h"
#include "worker/ingest/document_writer.h"
#include "worker/serve/api/errors.h"
#include "worker/serve/http/server.h"
#include "worker/serve/router.h"
#include "worker/serve/service.h"
#include "worker/serve/trace/exporter.h"
#include "worker/serve/trace/settings.h"

namespace kvlink::cli {
namespace {

using store::node::Access;
using store::node::AccessList;
using store::node::Grant;
using store::node::Log;
using store::node::Right;

constexpr absl::string_view kServeSummary =
    "Answers requests over HTTP, in the APIs of OpenAI (/v1/chat/completions, /v1/completions,\n"
    "/v1/responses) and Anthropic (/v1/messages). A request names stored documents or brings its own:\n"
    "\"documents\": [{\"id\": \"moon\"}, {\"title\": \"Mars\", \"text\": \"...\"}]; their encodings are read from the\n"
    "store, and what the store lacks is encoded once and kept. docs/serving.md describes all fields.\n\n"
    "Documents are also written (PUT /v1/documents/ID), listed and deleted. /livez, /readyz and\n"
    "/metrics are for whoever runs the server.\n\n"
    "Without --access-file everyone who can reach the server may do everything, so it listens on this\n"
    "host only. The file is that of kvlink store: each line is NAME KEY read|write|admin NAMESPACES, and\n"
    "writing documents needs the right write. SIGHUP reloads it.\n\n"
    "--secret-file names the secret that the documents were ingested with; those with another secret, or\n"
    "none, are refused.\n\n"
    "When ready, it prints one line of JSON with its address. It logs to standard error, one JSON object\n"
    "per line, and never the text of a request or an answer. SIGTERM or SIGINT stops it after the answers\n"
    "under way have ended; a second signal stops it at once.";

struct ServeFlags {
  StoreFlags store;
  ModelFlags model;
  DeviceFlags device;
  std::string tenant_secret;
  std::string listen = "127.0.0.1:8080";
  std::string linker_name;
  std::optional<link::Linker> linker;  // absent: the profile's
  int64_t max_running = infer::Scheduler::Options().max_running;
  int64_t max_waiting = infer::Scheduler::Options().max_waiting;
  int64_t max_tokens = 0;
  int64_t private_tokens = 0;
  int64_t chunk_tokens = 0;
  std::vector<std::string> aliases;
  std::string access_file;
  std::string certificate, key;
  bool trust_network = false;
  int64_t drain_seconds = 30;
  std::string otlp_endpoint;
  double trace_sample = 1;
};

// INVALID_ARGUMENT: others than this host would send keys in plain text, or need none.
absl::Status CheckExposure(const ServeFlags& flags) {
  KVLINK_ASSIGN_OR_RETURN(const transport::Address address, transport::ParseAddress(flags.listen));
  KVLINK_ASSIGN_OR_RETURN(const transport::SocketAddress resolved, transport::Resolve(address));
  if (flags.certificate.empty() != flags.key.empty()) {
    return absl::InvalidArgumentError("--https-cert and --https-key belong together; give both or neither");
  }
  if (transport::IsLoopback(resolved)) return absl::OkStatus();
  if (flags.access_file.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--listen ", flags.listen, ": other hosts can reach this address, ",
                                                   "so name the file of their keys with --access-file"));
  }
  if (flags.certificate.empty() && !flags.trust_network) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--listen ", flags.listen, ": other hosts would send their keys in plain text; give --https-cert and ",
        "--https-key, or --trust-network if the network is trusted or encrypted by other means"));
  }
  return absl::OkStatus();
}

void AddFlags(Arguments& arguments, ServeFlags& flags) {
  AddStoreFlags(arguments, flags.store);
  AddModelFlags(arguments, flags.model);
  AddDeviceFlags(arguments, flags.device);
  arguments.Text("listen", "HOST:PORT", "Address to listen on; port 0 picks a free port.", &flags.listen);
  arguments.Text("linker", "LINKER",
                 "How documents are combined, unless a request says; see kvlink ask. Default: the profile's.",
                 &flags.linker_name);
  arguments.Integer("max-running", "N", "Answers computed at a time.", 1, 4096, &flags.max_running);
  arguments.Integer("max-waiting", "N", "Requests that wait for their turn; further ones are refused (429).", 0,
                    1 << 16, &flags.max_waiting);
  arguments.Integer("max-tokens", "N",
                    "Maximum number of tokens in an answer, for requests that do not say; 0: as many as fit.", 0,
                    1 << 20, &flags.max_tokens);
  arguments.Integer("private-tokens", "N",
                    "Memory for questions and answers of all requests together, in tokens; 0: the model's context.", 0,
                    int64_t{1} << 30, &flags.private_tokens);
  arguments.Integer("chunk-tokens", "N",
                    "Cut the documents of requests into parts of at most N tokens, as kvlink ingest does.", 0, 1 << 24,
                    &flags.chunk_tokens);
  arguments.Texts("alias", "NAME", "A name of the model, in place of that of its file; repeat for several.",
                  &flags.aliases);
  arguments.Text("access-file", "FILE", "Keys and their rights; see above.", &flags.access_file);
  arguments.Text("https-cert", "FILE", "The server's certificate (PEM), which turns on TLS.", &flags.certificate);
  arguments.Text("https-key", "FILE", "Private key (PEM) for --https-cert.", &flags.key);
  arguments.Flag("trust-network",
                 "Accept keys in plain text from other hosts, where the network is trusted or encrypted by other "
                 "means.",
                 &flags.trust_network);
  arguments.Text(
      "otlp-endpoint", "URL",
      "Collector of OpenTelemetry that is sent spans of requests (OTLP over HTTP): http://HOST:PORT. Default: "
      "OTEL_EXPORTER_OTLP_ENDPOINT; none are sent without either.",
      &flags.otlp_endpoint);
  arguments.Real("trace-sample", "RATIO", "Which part of the requests is traced, of those whose clients do not say.", 0,
                 1, &flags.trace_sample);
  arguments.Integer("drain-timeout", "SECONDS", "How long to wait for the answers under way when stopping.", 0, 86400,
                    &flags.drain_seconds);
}

absl::Status Parse(absl::Span<char* const> args, Arguments& arguments, ServeFlags& flags) {
  AddFlags(arguments, flags);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  if (!arguments.operands().empty()) {
    return absl::InvalidArgumentError(absl::StrCat("unexpected operand '", arguments.operands()[0], "'"));
  }
  if (arguments.given("linker")) {
    KVLINK_ASSIGN_OR_RETURN(flags.linker, link::ParseLinker(flags.linker_name));
  }
  KVLINK_RETURN_IF_ERROR(CheckDeviceFlags(arguments, flags.model, flags.device));
  KVLINK_ASSIGN_OR_RETURN(flags.tenant_secret, TenantSecret(arguments, flags.store));
  return CheckExposure(flags);
}

// Opens the store that is there, or makes one in a directory that has none.
absl::StatusOr<OpenedStore> OpenPlace(const StoreFlags& flags) {
  auto opened = OpenStore(flags, StoreUse::kReading);
  KVLINK_ASSIGN_OR_RETURN(const PlaceKind kind, PlaceOf(flags));
  if (!absl::IsNotFound(opened.status()) || kind != PlaceKind::kDirectory) return opened;
  return OpenStore(flags, StoreUse::kCreate);
}

// Says who a key belongs to, if it may read the namespace.
absl::StatusOr<serve::Caller> CallerOf(const Access& access, absl::string_view key, absl::string_view ns) {
  const absl::StatusOr<Grant> grant = access.Find(key);
  if (!grant.ok()) return absl::UnauthenticatedError("the API key is unknown here");
  KVLINK_RETURN_IF_ERROR(grant->Allows(Right::kRead, ns));
  return serve::Caller{grant->name, grant->Allows(Right::kWrite, ns).ok()};
}

void LogRequest(Log& log, const serve::Record& record) {
  const bool failed = record.failed();
  const bool traced = record.trace.given || (record.trace.sampled && record.admitted);
  log.Write(failed ? Log::Level::kWarning : Log::Level::kInfo, failed ? "request_failed" : "request",
            {{"route", std::string(record.route)},
             {"status", int64_t{record.status}},
             {"key", record.caller},
             {"seconds", absl::ToDoubleSeconds(record.took)},
             {"prompt_tokens", record.usage.prompt_tokens},
             {"cached_tokens", record.usage.cached_tokens},
             {"completion_tokens", record.usage.completion_tokens},
             {"first_token_ms", record.usage.first_token_ms},
             {"trace_id", traced ? serve::ToHex(record.trace.trace) : ""},
             {"code", absl::StatusCodeToString(record.error.code())},
             {"cause", serve::CauseOf(record.error)}});
}

// The names of the model at `path`: those that are shown, and those that are understood as well.
void NameModel(const ServeFlags& flags, serve::Service::Options* options) {
  const std::filesystem::path path(flags.model.model);
  const std::filesystem::path last = path.has_filename() ? path.filename() : path.parent_path().filename();
  const std::string stem = last.extension() == ".gguf" ? last.stem().string() : last.string();
  options->models = flags.aliases;
  if (options->models.empty()) options->models.push_back(stem);
  options->synonyms = {path.string(), last.string(), stem};
}

// All that serves, in order of lifetime: later members use earlier ones.
struct Serving {
  OpenedModel opened;
  link::ModelChat chat;
  OpenedStore place;
  std::unique_ptr<infer::Generator> generator;
  std::unique_ptr<encode::Encoder> encoder;  // of documents that are written
  std::unique_ptr<ingest::DocumentWriter> writer;
  std::unique_ptr<infer::Scheduler> scheduler;
  std::unique_ptr<serve::Service> service;
  std::unique_ptr<Access> access;  // nullptr: no keys
  std::unique_ptr<Log> log;
  std::unique_ptr<serve::SpanExporter> exporter;  // nullptr: no collector
  std::unique_ptr<serve::Router> router;
  std::unique_ptr<serve::HttpServer> server;
};

absl::Status OpenGenerator(const ServeFlags& flags, Serving* serving) {
  OpenedModel& opened = serving->opened;
  KVLINK_ASSIGN_OR_RETURN(serving->chat,
                          link::OpenChat(opened.weights->chat_template(), opened.model->config(), *opened.tokenizer));
  KVLINK_ASSIGN_OR_RETURN(infer::GeneratorOptions options,
                          GeneratorOptionsOf(opened, flags.store, flags.model, flags.device, flags.tenant_secret));
  options.private_tokens = flags.private_tokens;
  if (serving->place.read_only) options.write_back_bytes = 0;
  encode::EncoderOptions encoder{
      .codec = options.codec, .tenant_secret = flags.tenant_secret, .wrapper = opened.wrapper};
  store::Store* const store = serving->place.store.get();
  KVLINK_ASSIGN_OR_RETURN(serving->generator,
                          infer::Generator::Create(opened.model.get(), opened.fingerprint, store, std::move(options)));
  KVLINK_ASSIGN_OR_RETURN(serving->encoder, encode::Encoder::Create(opened.model.get(), opened.fingerprint, encoder));
  return absl::OkStatus();
}

absl::Status OpenService(const ServeFlags& flags, Serving* serving) {
  const OpenedModel& opened = serving->opened;
  store::Store* const store = serving->place.store.get();
  serve::Service::Options options;
  options.linker = flags.linker.value_or(opened.profile.linker);
  options.max_tokens = flags.max_tokens;
  KVLINK_ASSIGN_OR_RETURN(options.document, ingest::ChunkLimitsOf(flags.chunk_tokens, opened.model->config().context -
                                                                                          opened.wrapper.tokens()));
  NameModel(flags, &options);
  if (!serving->place.read_only) {
    serving->writer = std::make_unique<ingest::DocumentWriter>(ingest::WriterInput{.tokenizer = opened.tokenizer.get(),
                                                                                   .profile = &opened.profile,
                                                                                   .limits = options.document,
                                                                                   .fingerprint = opened.fingerprint,
                                                                                   .encoder = serving->encoder.get(),
                                                                                   .store = store,
                                                                                   .ns = flags.store.ns});
  }
  infer::Scheduler::Options scheduling;
  scheduling.max_running = flags.max_running;
  scheduling.max_waiting = flags.max_waiting;
  serving->scheduler = std::make_unique<infer::Scheduler>(serving->generator.get(), scheduling);
  serving->service = std::make_unique<serve::Service>(serve::Service::Parts{.generator = serving->generator.get(),
                                                                            .store = store,
                                                                            .tokenizer = opened.tokenizer.get(),
                                                                            .chat = &serving->chat,
                                                                            .fingerprint = opened.fingerprint},
                                                      std::move(options));
  return absl::OkStatus();
}

absl::Status OpenExporter(const ServeFlags& flags, Serving* serving) {
  KVLINK_ASSIGN_OR_RETURN(auto options, serve::ExporterOptions(flags.otlp_endpoint, Environment));
  if (!options.has_value()) return absl::OkStatus();
  options->resource.emplace_back("kvlink.namespace", flags.store.ns);
  options->resource.emplace_back("kvlink.model", serving->service->models()[0]);
  options->on_failure = [log = serving->log.get()](const absl::Status& why) {
    log->Warning("spans_not_exported", {{"error", std::string(why.message())}});
  };
  KVLINK_ASSIGN_OR_RETURN(serving->exporter, serve::SpanExporter::Start(*std::move(options)));
  return absl::OkStatus();
}

absl::Status StartServer(const ServeFlags& flags, Serving* serving) {
  serving->log = std::make_unique<Log>(nullptr);
  serve::Router::Options options;
  KVLINK_ASSIGN_OR_RETURN(const transport::Address address, transport::ParseAddress(flags.listen));
  options.host = address.host;
  if (!flags.access_file.empty()) {
    KVLINK_ASSIGN_OR_RETURN(AccessList list, AccessList::Load(flags.access_file));
    serving->access = std::make_unique<Access>(std::move(list));
    options.authorize = [access = serving->access.get(), ns = flags.store.ns](absl::string_view key) {
      return CallerOf(*access, key, ns);
    };
  }
  KVLINK_RETURN_IF_ERROR(OpenExporter(flags, serving));
  options.exporter = serving->exporter.get();
  options.sample = flags.trace_sample;
  options.log = [log = serving->log.get()](const serve::Record& record) { LogRequest(*log, record); };
  serving->router = std::make_unique<serve::Router>(
      serve::Router::Parts{serving->service.get(), serving->scheduler.get(), serving->writer.get()}, options);
  serve::HttpServer::Options http;
  http.address = flags.listen;
  http.certificate = flags.certificate;
  http.key = flags.key;
  http.body_owner = [router = serving->router.get()](const serve::HttpRequest& head) {
    return router->BodyOwner(head);
  };
  KVLINK_ASSIGN_OR_RETURN(
      serving->server,
      serve::HttpServer::Start(http, [router = serving->router.get()](std::shared_ptr<serve::HttpExchange> one) {
        router->Handle(std::move(one));
      }));
  serving->router->Watch(serving->server.get());
  return absl::OkStatus();
}

nlohmann::ordered_json ReadyMessage(const ServeFlags& flags, const Serving& serving) {
  return {{"url", absl::StrCat(flags.certificate.empty() ? "http" : "https", "://", serving.server->address())},
          {"model", serving.service->models()[0]},
          {"store", PlaceName(flags.store)},
          {"created", serving.place.created},
          {"read_only", serving.place.read_only}};
}

Reload::Read ReadsAccess(const std::string& file, Serving* serving) {
  return [file, serving]() -> Reload::Use {
    return [serving, list = AccessList::Load(file)] {
      if (!list.ok()) {
        return serving->log->Error("access_reload_failed", {{"error", std::string(list.status().message())}});
      }
      serving->access->Replace(*list);
      serving->log->Info("access_reloaded");
    };
  };
}

// Answers under way end, new requests are refused, and what was computed for the store is written.
void Drain(const ServeFlags& flags, Serving* serving) {
  const absl::Time until = SteadyNow() + absl::Seconds(flags.drain_seconds);
  serving->router->BeginDrain();
  serving->server->Drain(until);
  // Both cancel what is left, which says so to its clients.
  serving->scheduler->Drain(SteadyNow());
  serving->router->EndDrain();
  constexpr absl::Duration kGoodbye = absl::Seconds(1);
  serving->server->Drain(SteadyNow() + kGoodbye);
  serving->router->Watch(nullptr);
}

}  // namespace

absl::Status RunServe(absl::Span<char* const> args) {
  ServeFlags flags;
  Arguments arguments("serve", "", kServeSummary);
  KVLINK_RETURN_IF_ERROR(Parse(args, arguments, flags));
  if (arguments.help_wanted()) return absl::OkStatus();
  // Before any other thread starts, and until what serves is destroyed.
  KVLINK_ASSIGN_OR_RETURN(const std::unique_ptr<EndSignals> signals, EndSignals::Catch());
  Serving serving;
  KVLINK_ASSIGN_OR_RETURN(serving.place, OpenPlace(flags.store));
  KVLINK_ASSIGN_OR_RETURN(serving.opened, OpenModel(flags.model));
  KVLINK_RETURN_IF_ERROR(OpenGenerator(flags, &serving));
  KVLINK_RETURN_IF_ERROR(OpenService(flags, &serving));
  KVLINK_RETURN_IF_ERROR(StartServer(flags, &serving));
  std::optional<Reload> access;
  if (serving.access != nullptr) access.emplace(ReadsAccess(flags.access_file, &serving));
  signals->BeginServing();
  absl::PrintF("%s\n", ReadyMessage(flags, serving).dump());
  std::fflush(stdout);
  for (;;) {
    const EndSignals::Heard heard = signals->Next(absl::Seconds(1));
    if (heard == EndSignals::Heard::kEnd) break;
    if (!access.has_value()) continue;
    if (heard == EndSignals::Heard::kHangUp) access->Begin();
    if (access->Overdue()) {
      serving.log->Error("access_reload_failed",
                         {{"error", "the file cannot be read yet; all rights stay as they are until it is"}});
    }
  }
  Drain(flags, &serving);
  return absl::OkStatus();
}

}  // namespace kvlink::cli
