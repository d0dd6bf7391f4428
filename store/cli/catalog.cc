// kvlink catalog: exports and imports documents without their encodings, and lists missing encodings. It knows stores
// only as store.h, so it copies from any kind of store to any other.
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/cli/args.h"
#include "base/cli/json.h"
#include "base/cli/progress.h"
#include "base/cli/standard_streams.h"
#include "base/own_file.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "store/cli/catalog_file.h"
#include "store/cli/catalog_walk.h"
#include "store/cli/commands.h"
#include "store/cli/place.h"

namespace kvlink::cli {
namespace {

constexpr absl::string_view kCatalogSummary =
    "Exports and imports the catalog of a namespace: document ids, titles, tokens and the names of their\n"
    "encodings. This data exists nowhere else. Encodings are not included; they can be computed again.\n\n"
    "  kvlink catalog export FILE     write all documents to FILE as JSON lines; - is standard output\n"
    "  kvlink catalog import FILE     put the documents in FILE into the store; - is standard input\n"
    "  kvlink catalog check           list the documents whose encodings are missing\n\n"
    "The store is a directory, a node or a cluster. Documents keep their generation: an import never\n"
    "replaces newer ones, and repeating it changes nothing. Deletions are not exported. An export is\n"
    "not a snapshot: each document is written as it is at that moment. Files are written completely or\n"
    "not at all.";

absl::Status Errno(const std::string& path) { return absl::ErrnoToStatus(errno, path); }

absl::Status WriteLine(std::FILE* file, const std::string& line, const std::string& path) {
  if (std::fwrite(line.data(), 1, line.size(), file) != line.size() || std::fputc('\n', file) == EOF)
    return Errno(path);
  return absl::OkStatus();
}

absl::StatusOr<int64_t> WriteCatalog(store::Store& store, const StoreFlags& flags, std::FILE* file,
                                     const std::string& path) {
  std::string line = CatalogHead(flags.ns);  // written once it is known whether another follows
  ProgressBar bar;
  int64_t count = 0;
  KVLINK_RETURN_IF_ERROR(WalkCatalog(store, flags.ns, [&](absl::Span<const Listed> documents) -> absl::Status {
    for (const Listed& document : documents) {
      KVLINK_RETURN_IF_ERROR(WriteLine(file, line, path));
      line = CatalogLine(document.info.id, document.entry);
    }
    count += static_cast<int64_t>(documents.size());
    bar.Update(-1, CountOf(count));
    return absl::OkStatus();
  }));
  KVLINK_RETURN_IF_ERROR(WriteLine(file, LastCatalogLine(std::move(line)), path));
  if (std::fflush(file) != 0) return Errno(path);
  return count;
}

// A directory or a device would be noticed only when all is written, or be replaced.
absl::Status CheckRegular(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status) || std::filesystem::is_regular_file(status)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file; name a file, or - for standard output"));
}

absl::Status Export(const StoreFlags& flags, const std::string& path, bool json) {
  if (path == "-" && json) {
    return absl::InvalidArgumentError("--json: an export to standard output is JSON lines already; name a FILE");
  }
  if (path != "-") KVLINK_RETURN_IF_ERROR(CheckRegular(path));
  KVLINK_ASSIGN_OR_RETURN(const OpenedStore opened, OpenStore(flags, StoreUse::kReading));
  if (path == "-") return WriteCatalog(*opened.store, flags, stdout, "standard output").status();
  const std::string part = path + ".part";
  KVLINK_ASSIGN_OR_RETURN(const OwnFile file, OpenOwnFile(part, "another process exports to this file; wait for it"));
  auto remove = absl::MakeCleanup([&part] { unlink(part.c_str()); });
  KVLINK_ASSIGN_OR_RETURN(const int64_t written, WriteCatalog(*opened.store, flags, file.get(), part));
  // Flushed; closed after the rename, so that no other process takes the file for its own.
  if (fsync(fileno(file.get())) != 0 || std::rename(part.c_str(), path.c_str()) != 0) return Errno(path);
  std::move(remove).Cancel();
  if (json) {
    PrintJson({{"exported", written}});
  } else {
    absl::PrintF("%s exported\n", CountOf(written));
  }
  return absl::OkStatus();
}

// Reads the next line without its newline; false at the end. INVALID_ARGUMENT: it is too long, or has a zero byte.
absl::StatusOr<bool> ReadLine(std::FILE* file, const std::string& path, std::string* line) {
  line->clear();
  for (int c = getc_unlocked(file); c != EOF; c = getc_unlocked(file)) {
    if (c == '\n') return true;
    if (c == 0) return absl::InvalidArgumentError(absl::StrCat(path, ": contains a zero byte; is it a catalog?"));
    if (line->size() > kMaxCatalogLine) return absl::InvalidArgumentError(absl::StrCat(path, ": a line is too long"));
    line->push_back(static_cast<char>(c));
  }
  if (std::ferror(file) != 0) return Errno(path);
  return !line->empty();
}

// Counts the documents of a file.
struct Imported {
  int64_t put = 0;
  int64_t newer = 0;  // skipped: the store has newer ones
};

absl::Status PutAll(store::Store& store, const StoreFlags& flags, std::vector<store::DocumentPut>* batch,
                    Imported* imported) {
  KVLINK_ASSIGN_OR_RETURN(const auto put, store.PutDocuments(flags.ns, *batch));
  for (const absl::StatusOr<uint64_t>& one : put) {
    if (!one.ok() && !absl::IsFailedPrecondition(one.status())) return one.status();
    ++(one.ok() ? imported->put : imported->newer);
  }
  batch->clear();
  return absl::OkStatus();
}

absl::StatusOr<CatalogFileHead> ReadHead(std::FILE* file, const std::string& path) {
  std::string line;
  KVLINK_RETURN_IF_ERROR(ReadLine(file, path, &line).status());
  const auto head = ParseCatalogHead(line);
  KVLINK_RETURN_IF_ERROR(Annotate(head.status(), path));
  return *head;
}

// Reads what follows the head. DATA_LOSS: all lines were imported, but others are missing.
absl::Status ReadCatalog(store::Store& store, const StoreFlags& flags, std::FILE* file, const std::string& path,
                         const CatalogFileHead& head, Imported* imported) {
  std::string line;
  bool ended = head.last || !head.marks_last;
  ProgressBar bar;
  std::vector<store::DocumentPut> batch;
  int64_t bytes = 0;
  for (int64_t number = 2;; ++number) {
    KVLINK_ASSIGN_OR_RETURN(const bool more, ReadLine(file, path, &line));
    if (!more) break;
    auto parsed = ParseCatalogLine(line);
    KVLINK_RETURN_IF_ERROR(Annotate(parsed.status(), absl::StrCat(path, ": line ", number)));
    ended = !head.marks_last || parsed->last;  // of files put together, the last one's counts
    batch.push_back(std::move(parsed->put));
    bytes += static_cast<int64_t>(line.size());
    if (static_cast<int64_t>(batch.size()) < store::kMaxCatalogBatch && bytes < store::kMaxCatalogBatchBytes) continue;
    KVLINK_RETURN_IF_ERROR(PutAll(store, flags, &batch, imported));
    bytes = 0;
    bar.Update(-1, CountOf(imported->put + imported->newer));
  }
  KVLINK_RETURN_IF_ERROR(PutAll(store, flags, &batch, imported));
  if (ended) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      path, ": its last line is missing, so the export was cut off; export it again and import that, too"));
}

absl::Status Import(const StoreFlags& flags, const std::string& path, bool json) {
  if (std::error_code error; std::filesystem::is_directory(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is a directory; name a file"));
  }
  std::FILE* const file = path == "-" ? stdin : std::fopen(path.c_str(), "re");
  if (file == nullptr) return Errno(path);
  const auto close = absl::MakeCleanup([&] {
    if (file != stdin) std::fclose(file);
  });
  const std::string name = path == "-" ? "standard input" : path;
  // Before a store is created for it.
  KVLINK_ASSIGN_OR_RETURN(const CatalogFileHead head, ReadHead(file, name));
  KVLINK_ASSIGN_OR_RETURN(const OpenedStore opened, OpenStore(flags, StoreUse::kCreate));
  Imported imported;
  const absl::Status status = ReadCatalog(*opened.store, flags, file, name, head, &imported);
  if (json) {
    PrintJson({{"imported", imported.put}, {"skipped", imported.newer}});
    return status;
  }
  absl::PrintF("%s imported", CountOf(imported.put));
  if (imported.newer > 0) absl::PrintF("; %d skipped, the store has newer versions", imported.newer);
  absl::PrintF("\n");
  return status;
}

// Printed as they are found: a catalog need not fit in memory.
absl::Status Check(const StoreFlags& flags, bool json) {
  KVLINK_ASSIGN_OR_RETURN(const OpenedStore opened, OpenStore(flags, StoreUse::kReading));
  ProgressBar bar;
  int64_t documents = 0, missing = 0;
  if (json) absl::PrintF("{\"missing\": [");
  KVLINK_RETURN_IF_ERROR(WalkCatalog(*opened.store, flags.ns, [&](absl::Span<const Listed> page) -> absl::Status {
    KVLINK_ASSIGN_OR_RETURN(const std::vector<bool> have, HaveEncodings(*opened.store, flags.ns, page));
    for (size_t i = 0; i < page.size(); ++i) {
      if (have[i]) continue;
      bar.Clear();
      if (json) {
        absl::PrintF("%s\n %s", missing > 0 ? "," : "", JsonText(page[i].info.id, /*one_line=*/true));
      } else {
        absl::PrintF("%s\n", Printable(page[i].info.id));
      }
      ++missing;
    }
    documents += static_cast<int64_t>(page.size());
    bar.Update(-1, CountOf(documents));
    return OutputFailed() ? absl::CancelledError("standard output was closed") : absl::OkStatus();
  }));
  bar.Clear();
  if (json) absl::PrintF("], \"documents\": %d}\n", documents);
  std::fflush(stdout);
  absl::FPrintF(stderr, "%s, %d of them with encodings missing%s\n", CountOf(documents), missing,
                missing > 0 ? "; the next request or kvlink ingest encodes them again" : "");
  return absl::OkStatus();
}

}  // namespace

absl::Status RunCatalog(absl::Span<char* const> args) {
  StoreFlags flags;
  flags.memory = int64_t{64} << 20;
  Arguments arguments("catalog", "export|import|check [FILE]", kCatalogSummary);
  AddPlaceFlags(arguments, flags);
  arguments.Text("namespace", "NAME", "Namespace of the documents.", &flags.ns);
  bool json = false;
  AddJsonFlag(arguments, &json);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  const std::vector<std::string>& operands = arguments.operands();
  const std::string what = operands.empty() ? "" : operands[0];
  if (what == "check" && operands.size() == 1) return Check(flags, json);
  if (what == "export" && operands.size() == 2) return Export(flags, operands[1], json);
  if (what == "import" && operands.size() == 2) return Import(flags, operands[1], json);
  return absl::InvalidArgumentError("expected export FILE, import FILE or check");
}

}  // namespace kvlink::cli
