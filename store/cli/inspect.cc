// kvlink inspect: the contents of a store or a document.
#include "store/cli/inspect.h"

#include <cstdio>
#include <map>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/cli/args.h"
#include "base/cli/json.h"
#include "base/cli/standard_streams.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "store/cli/commands.h"

namespace kvlink::cli {
namespace {

using Json = nlohmann::json;

constexpr absl::string_view kInspectSummary =
    "Shows the contents of a store or a document.\n\n"
    "  kvlink inspect store             sizes, namespaces, codecs and models of the store\n"
    "  kvlink inspect documents         the documents of a namespace\n"
    "  kvlink inspect document ID       its entry and its encodings: codecs, sizes, etags, checksums";

absl::string_view TierName(store::Tier tier) {
  switch (tier) {
    case store::Tier::kDram:
      return "memory";
    case store::Tier::kDisk:
      return "segments";
    case store::Tier::kNone:
      break;
  }
  return "none";
}

// The greatest identity below `identity`, so that a listing "after" it begins with `identity`. All zeros stay.
Identity Before(Identity identity) {
  for (size_t i = identity.bytes.size(); i-- > 0;) {
    if (identity.bytes[i]-- != 0) return identity;
  }
  return Identity{};
}

// Store.

struct CodecTotals {
  int64_t encodings = 0;
  int64_t tokens = 0;
  int64_t bytes = 0;
};
using Totals = std::map<std::pair<std::string, std::string>, CodecTotals>;  // (codec, model)

absl::StatusOr<Totals> CountEncodings(store::Store& store, const std::string& ns) {
  constexpr int64_t kPage = 1000;
  Totals totals;
  Identity after;
  for (;;) {
    KVLINK_ASSIGN_OR_RETURN(const auto page, store.ListEncodings(ns, after, kPage));
    for (const auto& listed : page) {
      const Manifest& manifest = listed.manifest;
      CodecTotals& total = totals[{std::string(CodecName(manifest.codec)), manifest.model.Hex()}];
      ++total.encodings;
      total.tokens += manifest.tokens;
      total.bytes += manifest.bytes();
    }
    if (page.empty() || page.back().manifest.identity == after) return totals;
    after = page.back().manifest.identity;
  }
}

absl::Status InspectStore(const InspectFlags& flags) {
  KVLINK_ASSIGN_OR_RETURN(const OpenedStore opened, OpenStore(flags.store, StoreUse::kReadOnly));
  store::Store* const store = opened.store.get();
  KVLINK_ASSIGN_OR_RETURN(const store::StoreStats stats, store->Stats());
  Json namespaces = Json::array();
  for (const store::NamespaceStats& ns : stats.namespaces) {
    KVLINK_ASSIGN_OR_RETURN(const Totals totals, CountEncodings(*store, ns.name));
    Json codecs = Json::array();
    for (const auto& [key, total] : totals) {
      codecs.push_back({{"codec", key.first},
                        {"model", key.second},
                        {"encodings", total.encodings},
                        {"tokens", total.tokens},
                        {"bytes", total.bytes}});
    }
    namespaces.push_back({{"name", ns.name},
                          {"documents", ns.documents},
                          {"encodings", ns.encodings},
                          {"bytes", ns.bytes},
                          {"pinned_bytes", ns.pinned_bytes},
                          {"codecs", codecs}});
  }
  const Json json = {{"store", PlaceName(flags.store)},
                     {"segment_bytes", stats.segment_bytes},
                     {"segment_bytes_used", stats.segment_bytes_used},
                     {"pinned_bytes", stats.pinned_bytes},
                     {"double_claims", stats.double_claims},
                     {"io", stats.io},
                     {"namespaces", namespaces}};
  if (flags.json) {
    PrintJson(json);
    return absl::OkStatus();
  }
  absl::PrintF("%s\n", PlaceName(flags.store));
  absl::PrintF("segments    %s used of %s allocated\n", FormatBytes(static_cast<double>(stats.segment_bytes_used)),
               FormatBytes(static_cast<double>(stats.segment_bytes)));
  absl::PrintF("i/o         %s\n", stats.io);
  if (stats.double_claims > 0)
    absl::PrintF("dropped     %d encodings that claimed blocks of others\n", stats.double_claims);
  for (const Json& ns : namespaces) {
    absl::PrintF("namespace   %s: %d documents, %d encodings, %s, %s pinned\n",
                 Printable(ns["name"].get<std::string>()), ns["documents"].get<int64_t>(),
                 ns["encodings"].get<int64_t>(), FormatBytes(ns["bytes"].get<double>()),
                 FormatBytes(ns["pinned_bytes"].get<double>()));
    for (const Json& codec : ns["codecs"]) {
      absl::PrintF("  %-9s model %s  %d encodings, %d tokens, %s\n", codec["codec"].get<std::string>(),
                   codec["model"].get<std::string>().substr(0, 16), codec["encodings"].get<int64_t>(),
                   codec["tokens"].get<int64_t>(), FormatBytes(codec["bytes"].get<double>()));
    }
  }
  return absl::OkStatus();
}

// Documents.

Json ToJson(const store::DocumentInfo& info) {
  return {{"id", info.id},
          {"generation", info.generation},
          {"written_at_us", info.written_at_us},
          {"title", info.title},
          {"tokens", info.tokens}};
}

// Printed page by page: a catalog need not fit in memory.
absl::Status InspectDocuments(const InspectFlags& flags) {
  KVLINK_ASSIGN_OR_RETURN(const OpenedStore opened, OpenStore(flags.store, StoreUse::kReadOnly));
  constexpr int64_t kPage = 1000;
  std::string after;
  int64_t printed = 0;
  bool more = false;
  if (flags.json) absl::PrintF("[");
  while (!more && !OutputFailed()) {
    KVLINK_ASSIGN_OR_RETURN(const auto page, opened.store->ListDocuments(flags.store.ns, after, kPage));
    if (page.empty()) break;
    after = page.back().id;
    for (const store::DocumentInfo& info : page) {
      more = flags.limit > 0 && printed == flags.limit;
      if (more) break;
      if (flags.json) {
        absl::PrintF("%s\n %s", printed > 0 ? "," : "", JsonText(ToJson(info), /*one_line=*/true));
      } else {
        absl::PrintF("%-32s %7d tokens  %s\n", Printable(info.id), info.tokens, Printable(info.title));
      }
      ++printed;
    }
  }
  if (flags.json) absl::PrintF("\n]\n");
  if (more) {
    std::fprintf(stderr, "[only the first %lld documents are shown; --limit 0 shows all]\n",
                 static_cast<long long>(printed));
  }
  return absl::OkStatus();
}

// Document.

absl::StatusOr<Json> DescribePart(store::Store& store, const InspectFlags& flags, const CatalogPart& part) {
  Json encodings = Json::array();
  KVLINK_ASSIGN_OR_RETURN(const auto listed, store.ListEncodings(flags.store.ns, Before(part.identity), 8));
  for (const auto& item : listed) {
    const Manifest& manifest = item.manifest;
    if (!(manifest.identity == part.identity)) continue;
    KVLINK_ASSIGN_OR_RETURN(const auto found, store.Lookup(flags.store.ns, {part.identity}, manifest.codec));
    const SlabShape shape = manifest.shape(0);
    Json encoding = {{"codec", std::string(CodecName(manifest.codec))},
                     {"etag", manifest.etag.Hex()},
                     {"bytes", manifest.bytes()},
                     {"tokens", manifest.tokens},
                     {"layers", manifest.layers.size()},
                     {"kv_heads", shape.kv_heads},
                     {"head_dim", shape.head_dim},
                     {"units", manifest.unit_checksums.size()},
                     {"build", manifest.build},
                     {"tier", std::string(TierName(found.at(0).tier))}};
    if (flags.units) {
      Json units = Json::array();
      for (const uint64_t checksum : manifest.unit_checksums) {
        units.push_back(absl::StrCat(absl::Hex(checksum, absl::kZeroPad16)));
      }
      encoding["unit_checksums"] = std::move(units);
    }
    encodings.push_back(std::move(encoding));
  }
  return Json{{"identity", part.identity.Hex()},
              {"tokens", part.tokens.size()},
              {"begin", part.begin},
              {"end", part.end},
              {"encodings", encodings}};
}

absl::Status InspectDocument(const std::string& id, const InspectFlags& flags) {
  KVLINK_ASSIGN_OR_RETURN(const OpenedStore opened, OpenStore(flags.store, StoreUse::kReadOnly));
  store::Store* const store = opened.store.get();
  const auto entry = store->GetDocument(flags.store.ns, id);
  if (absl::IsNotFound(entry.status())) {
    return absl::NotFoundError(absl::StrCat("document '", Printable(id), "' is not in namespace '",
                                            Printable(flags.store.ns), "' of ", PlaceName(flags.store),
                                            "; kvlink inspect documents lists its documents"));
  }
  KVLINK_RETURN_IF_ERROR(entry.status());
  Json parts = Json::array();
  for (const CatalogPart& part : entry->parts) {
    KVLINK_ASSIGN_OR_RETURN(Json described, DescribePart(*store, flags, part));
    parts.push_back(std::move(described));
  }
  const std::string wrapper = entry->context_digest.empty() ? "none" : absl::BytesToHexString(entry->context_digest);
  const Json json = {{"id", id},
                     {"title", entry->title},
                     {"generation", entry->generation},
                     {"written_at_us", entry->written_at_us},
                     {"model", entry->model.Hex()},
                     {"wrapper", wrapper},
                     {"parts", parts}};
  if (flags.json) {
    PrintJson(json);
    return absl::OkStatus();
  }
  absl::PrintF("document    %s\ntitle       %s\ngeneration  %d\nwritten     %s\nmodel       %s\nwrapper     %s\n",
               Printable(id), Printable(entry->title), entry->generation,
               absl::FormatTime(absl::RFC3339_sec, absl::FromUnixMicros(static_cast<int64_t>(entry->written_at_us)),
                                absl::UTCTimeZone()),
               entry->model.Hex(), wrapper);
  for (size_t i = 0; i < parts.size(); ++i) {
    const Json& part = parts[i];
    if (parts.size() > 1) {
      absl::PrintF("part %-6d bytes %d to %d of the text\n", i + 1, part["begin"].get<int64_t>(),
                   part["end"].get<int64_t>());
    }
    absl::PrintF("identity    %s, %d tokens\n", part["identity"].get<std::string>(), part["tokens"].get<int64_t>());
    if (part["encodings"].empty()) absl::PrintF("  no encoding in the store; the next request encodes it again\n");
    for (const Json& encoding : part["encodings"]) {
      absl::PrintF("  %-9s etag %s  %s  %d layers x %d heads x %d  %d units  %s  by %s\n",
                   encoding["codec"].get<std::string>(), encoding["etag"].get<std::string>(),
                   FormatBytes(encoding["bytes"].get<double>()), encoding["layers"].get<int64_t>(),
                   encoding["kv_heads"].get<int64_t>(), encoding["head_dim"].get<int64_t>(),
                   encoding["units"].get<int64_t>(), encoding["tier"].get<std::string>(),
                   Printable(encoding["build"].get<std::string>()));
      if (!flags.units) continue;
      for (const Json& unit : encoding["unit_checksums"]) absl::PrintF("    %s\n", unit.get<std::string>());
    }
  }
  return absl::OkStatus();
}

}  // namespace

void AddInspectFlags(Arguments& arguments, InspectFlags& flags) {
  AddPlaceFlags(arguments, flags.store);
  arguments.Text("namespace", "NAME", "Namespace of the documents.", &flags.store.ns);
  arguments.Integer("limit", "N", "With 'documents': list at most N; 0: all.", 0, int64_t{1} << 40, &flags.limit);
  arguments.Flag("units", "With 'document': print the checksum of every unit.", &flags.units);
  AddJsonFlag(arguments, &flags.json);
}

absl::Status Inspect(const std::vector<std::string>& operands, const InspectFlags& flags) {
  const std::string what = operands.empty() ? "" : operands[0];
  if (what == "store" && operands.size() == 1) return InspectStore(flags);
  if (what == "documents" && operands.size() == 1) return InspectDocuments(flags);
  if (what == "document" && operands.size() == 2) return InspectDocument(operands[1], flags);
  return absl::InvalidArgumentError("expected store, documents or document ID");
}

absl::Status RunInspectStore(absl::Span<char* const> args) {
  InspectFlags flags;
  Arguments arguments("inspect", "store|documents|document [ID]", kInspectSummary);
  AddInspectFlags(arguments, flags);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  return Inspect(arguments.operands(), flags);
}

}  // namespace kvlink::cli
