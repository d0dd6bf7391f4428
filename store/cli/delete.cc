// kvlink delete: documents, namespaces and pins. A directory is opened and changed by this process; a node is asked,
// since only the node can revoke what its sessions hold.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/cli/args.h"
#include "base/cli/json.h"
#include "base/cli/standard_streams.h"
#include "base/clock.h"
#include "base/status.h"
#include "base/utf8.h"
#include "nlohmann/json.hpp"
#include "store/cli/catalog_walk.h"
#include "store/cli/cluster_store.h"
#include "store/cli/commands.h"
#include "store/cli/place.h"
#include "store/client/control/admin.h"
#include "store/store.h"

namespace kvlink::cli {
namespace {

constexpr absl::string_view kDeleteSummary =
    "Deletes documents of a namespace: those with the given IDs, those on a list, or those whose ids\n"
    "begin with a prefix. Encodings that no other document refers to are deleted too. This cannot be\n"
    "undone.\n\n"
    "  kvlink delete moon mars                              two documents\n"
    "  kvlink delete --from old.txt                         the ids in a file, one per line\n"
    "  kvlink delete --prefix wiki/                         every document whose id begins with wiki/\n"
    "  kvlink delete --namespace typo --whole-namespace     an entire namespace, including its limits\n"
    "  kvlink delete --namespace docs --unpin               only the pins that sessions of a node hold\n\n"
    "The generation of a deleted document is kept, so that a late writer cannot bring it back; only a\n"
    "higher generation can. --forget deletes the generation too, to repair an id whose generation was set\n"
    "too high. On a node, --forget, --whole-namespace and --unpin require the right 'admin'.";

constexpr absl::Duration kDeleteTimeout = absl::Minutes(2);
constexpr size_t kMaxListBytes = size_t{64} << 20;
constexpr size_t kBatch = 1000;

struct DeleteFlags {
  StoreFlags store;
  std::string prefix;
  std::string from;
  bool whole_namespace = false;
  bool unpin = false;
  bool forget = false;
  bool json = false;
};

// Where to delete: a directory, a node or a cluster.
class Place {
 public:
  virtual ~Place() = default;
  // One status for each id; NOT_FOUND: there is no such document.
  virtual absl::StatusOr<std::vector<absl::Status>> DeleteDocuments(const std::vector<std::string>& ids,
                                                                    bool forget) = 0;
  virtual absl::StatusOr<int64_t> DeletePrefix(const std::string& prefix) = 0;
  // Whether the store's statistics name the namespace.
  virtual absl::StatusOr<bool> HasNamespace() = 0;
  virtual absl::StatusOr<store::client::Deleted> DeleteNamespace() = 0;
  virtual absl::StatusOr<int64_t> DropPins() = 0;
  // Waits until the bytes of what was deleted are gone, if deleting leaves them for later.
  virtual absl::Status AwaitRemoved(absl::Time) { return absl::OkStatus(); }
};

class NodePlace final : public Place {
 public:
  NodePlace(std::unique_ptr<store::client::NodeAdmin> admin, std::string ns)
      : admin_(std::move(admin)), ns_(std::move(ns)) {}
  absl::StatusOr<std::vector<absl::Status>> DeleteDocuments(const std::vector<std::string>& ids, bool forget) override {
    return admin_->DeleteDocuments(ns_, ids, forget, Deadline());
  }
  absl::StatusOr<int64_t> DeletePrefix(const std::string& prefix) override {
    KVLINK_ASSIGN_OR_RETURN(const store::client::Deleted deleted, admin_->DeletePrefix(ns_, prefix, Deadline()));
    return deleted.documents;
  }
  absl::StatusOr<bool> HasNamespace() override {
    KVLINK_ASSIGN_OR_RETURN(const store::client::NodeStatus status, admin_->Status(Deadline()));
    return absl::c_any_of(status.namespaces, [this](const auto& one) { return one.limits.name == ns_; });
  }
  absl::StatusOr<store::client::Deleted> DeleteNamespace() override { return admin_->DeleteNamespace(ns_, Deadline()); }
  absl::StatusOr<int64_t> DropPins() override { return admin_->DropPins(ns_, Deadline()); }

 private:
  static absl::Time Deadline() { return SteadyNow() + kDeleteTimeout; }
  const std::unique_ptr<store::client::NodeAdmin> admin_;
  const std::string ns_;
};

// A store that this process opens.
class StorePlace : public Place {
 public:
  StorePlace(store::Store* store, std::string ns) : store_(store), ns_(std::move(ns)) {}
  absl::StatusOr<std::vector<absl::Status>> DeleteDocuments(const std::vector<std::string>& ids, bool forget) override {
    if (forget) {
      return absl::FailedPreconditionError(
          "only a node with a catalog of its own can --forget: serve a directory with kvlink store, or use "
          "--whole-namespace");
    }
    KVLINK_ASSIGN_OR_RETURN(const auto entries, store_->GetDocuments(ns_, ids));
    std::vector<absl::Status> statuses;
    std::vector<store::DocumentDeletion> deletions;
    for (size_t i = 0; i < ids.size(); ++i) {
      statuses.push_back(entries[i].status());
      // A damaged entry is deleted as well: there is no other way to remove it.
      if (absl::IsNotFound(entries[i].status())) continue;
      deletions.push_back({ids[i]});
      statuses.back() = absl::OkStatus();
    }
    KVLINK_ASSIGN_OR_RETURN(const auto deleted, store_->DeleteDocuments(ns_, deletions));
    size_t next = 0;
    for (absl::Status& status : statuses) {
      if (status.ok()) status = deleted[next++];
    }
    return statuses;
  }
  absl::StatusOr<int64_t> DeletePrefix(const std::string& prefix) override {
    // Ingest takes generations from the same clock.
    KVLINK_ASSIGN_OR_RETURN(const uint64_t now, store_->Clock());
    return store_->DeletePrefix(ns_, prefix, now);
  }
  absl::StatusOr<bool> HasNamespace() override {
    KVLINK_ASSIGN_OR_RETURN(const store::StoreStats stats, store_->Stats());
    return absl::c_any_of(stats.namespaces, [this](const auto& one) { return one.name == ns_; });
  }
  absl::StatusOr<store::client::Deleted> DeleteNamespace() override {
    KVLINK_ASSIGN_OR_RETURN(const store::NamespaceDeletion deleted, store_->DeleteNamespace(ns_));
    return store::client::Deleted{deleted.documents, deleted.encodings};
  }
  absl::StatusOr<int64_t> DropPins() override {
    return absl::FailedPreconditionError(
        "pins are released on the node that holds them: name it with --store; in a directory, pins end with their "
        "process");
  }

 private:
  store::Store* const store_;
  const std::string ns_;
};

class DirectoryPlace final : public StorePlace {
 public:
  DirectoryPlace(OpenedStore opened, std::string ns)
      : StorePlace(opened.store.get(), std::move(ns)), opened_(std::move(opened)) {}

 private:
  const OpenedStore opened_;
};

class ClusterPlace final : public StorePlace {
 public:
  ClusterPlace(ClusterStore cluster, std::string ns)
      : StorePlace(cluster.store.get(), std::move(ns)), cluster_(std::move(cluster)) {}
  absl::Status AwaitRemoved(absl::Time deadline) override { return cli::AwaitRemoved(cluster_, deadline); }

 private:
  const ClusterStore cluster_;
};

absl::StatusOr<std::unique_ptr<Place>> OpenPlace(const DeleteFlags& flags) {
  KVLINK_ASSIGN_OR_RETURN(const PlaceKind kind, PlaceOf(flags.store));
  if (kind == PlaceKind::kCluster) {
    KVLINK_ASSIGN_OR_RETURN(ClusterStore cluster, OpenClusterStore(flags.store));
    return std::make_unique<ClusterPlace>(std::move(cluster), flags.store.ns);
  }
  if (kind == PlaceKind::kDirectory) {
    KVLINK_ASSIGN_OR_RETURN(OpenedStore opened, OpenStore(flags.store, StoreUse::kExisting));
    return std::make_unique<DirectoryPlace>(std::move(opened), flags.store.ns);
  }
  KVLINK_ASSIGN_OR_RETURN(auto admin, OpenAdmin(flags.store));
  return std::make_unique<NodePlace>(std::move(admin), flags.store.ns);
}

// The lines of a file or of standard input, without empty ones.
absl::StatusOr<std::vector<std::string>> ReadIds(const std::string& path) {
  std::FILE* const file = path == "-" ? stdin : std::fopen(path.c_str(), "re");
  if (file == nullptr) return absl::ErrnoToStatus(errno, path);
  std::string text;
  char buffer[1 << 14];
  for (size_t n = 1; n > 0 && text.size() <= kMaxListBytes;) {
    n = std::fread(buffer, 1, sizeof(buffer), file);
    text.append(buffer, n);
  }
  const bool failed = std::ferror(file) != 0;
  const int error = errno;
  if (file != stdin) std::fclose(file);
  if (failed) return absl::ErrnoToStatus(error, path);
  if (text.size() > kMaxListBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is longer than ", kMaxListBytes, " bytes; split it"));
  }
  std::vector<std::string> ids;
  const absl::string_view lines = WithoutByteOrderMark(text);
  for (absl::string_view line : absl::StrSplit(lines, '\n', absl::SkipEmpty())) {
    absl::ConsumeSuffix(&line, "\r");
    if (!line.empty()) ids.emplace_back(line);
  }
  if (ids.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": contains no ids; write one per line"));
  return ids;
}

// Requires exactly one thing to delete, so that no slip deletes more than was meant.
absl::Status CheckWhat(const Arguments& arguments, const DeleteFlags& flags) {
  const int what = (arguments.operands().empty() ? 0 : 1) + (arguments.given("prefix") ? 1 : 0) +
                   (flags.from.empty() ? 0 : 1) + (flags.whole_namespace ? 1 : 0) + (flags.unpin ? 1 : 0);
  if (what != 1) {
    return absl::InvalidArgumentError(
        "expected exactly one thing to delete: ids, or one of --from, --prefix, --whole-namespace and --unpin");
  }
  if (arguments.given("prefix") && flags.prefix.empty()) {
    return absl::InvalidArgumentError("--prefix is empty; --whole-namespace deletes everything");
  }
  if ((flags.whole_namespace || flags.unpin) && !arguments.given("namespace")) {
    return absl::InvalidArgumentError("name the namespace with --namespace, even if it is 'default'");
  }
  if (flags.forget && arguments.operands().empty() && flags.from.empty()) {
    return absl::InvalidArgumentError("--forget requires ids, or a list of them with --from");
  }
  return absl::OkStatus();
}

// Checks all of them before any document is deleted.
absl::Status CheckIds(const std::vector<std::string>& ids) {
  for (const std::string& id : ids) {
    const absl::Status valid = store::ValidateName("document id", id);
    if (!valid.ok()) return Annotate(valid, absl::StrCat("'", id.substr(0, 100), "'"));
  }
  return absl::OkStatus();
}

// What was deleted, as JSON or in words.
void PrintDeleted(const DeleteFlags& flags, const nlohmann::json& deleted, const std::string& words) {
  if (!flags.json) return static_cast<void>(absl::PrintF("%s\n", words));
  nlohmann::json all = deleted;
  all["namespace"] = flags.store.ns;
  PrintJson(all);
}

// Names one that could not be deleted.
void PrintFailed(const std::string& id, const absl::Status& status) {
  std::fprintf(stderr, "%s\n",
               OneLine(absl::StrCat("kvlink delete: document '", id, "'"),
                       absl::IsNotFound(status) ? absl::string_view("not found") : status.message())
                   .c_str());
}

absl::Status DeleteIds(Place& place, const std::vector<std::string>& ids, const DeleteFlags& flags) {
  int64_t deleted = 0, missing = 0;
  absl::Status first_failure;
  nlohmann::json failed = nlohmann::json::array();
  const auto print = [&] {
    PrintDeleted(flags, {{"documents", deleted}, {"failed", failed}}, absl::StrCat(CountOf(deleted), " deleted"));
  };
  for (size_t begin = 0; begin < ids.size(); begin += kBatch) {
    const std::vector<std::string> batch(ids.begin() + begin, ids.begin() + std::min(ids.size(), begin + kBatch));
    const auto statuses = place.DeleteDocuments(batch, flags.forget);
    if (!statuses.ok()) {
      if (begin == 0) return statuses.status();
      print();
      return Annotate(statuses.status(), absl::StrCat("after ", begin, " of ", ids.size(), " documents"));
    }
    for (size_t i = 0; i < batch.size(); ++i) {
      const absl::Status& status = (*statuses)[i];
      deleted += status.ok() ? 1 : 0;
      if (status.ok()) continue;
      missing += absl::IsNotFound(status) ? 1 : 0;
      if (first_failure.ok() || absl::IsNotFound(first_failure)) first_failure = status;
      failed.push_back({{"id", batch[i]}, {"error", std::string(status.message())}});
      PrintFailed(batch[i], status);
    }
  }
  print();
  if (first_failure.ok()) return absl::OkStatus();
  return absl::Status(first_failure.code(),
                      absl::StrCat(ids.size() - deleted, " of ", ids.size(), " documents were not deleted, ", missing,
                                   " of them not found"));
}

absl::Status DeleteNamespace(Place& place, const DeleteFlags& flags) {
  KVLINK_ASSIGN_OR_RETURN(const bool there, place.HasNamespace());
  // Deleted in any case: generations of deleted documents, which statistics do not count, may be left.
  KVLINK_ASSIGN_OR_RETURN(const store::client::Deleted deleted, place.DeleteNamespace());
  if (!there && deleted.documents == 0 && deleted.encodings == 0) {
    return absl::NotFoundError(absl::StrCat("namespace '", flags.store.ns,
                                            "' has no documents and no encodings; kvlink inspect store lists those "
                                            "that do"));
  }
  PrintDeleted(flags, {{"documents", deleted.documents}, {"encodings", deleted.encodings}},
               absl::StrCat("namespace ", Printable(flags.store.ns), ": ", deleted.documents, " documents and ",
                            deleted.encodings, " encodings deleted"));
  return absl::OkStatus();
}

absl::Status Delete(Place& place, const std::vector<std::string>& ids, const DeleteFlags& flags) {
  if (flags.whole_namespace) return DeleteNamespace(place, flags);
  if (flags.unpin) {
    KVLINK_ASSIGN_OR_RETURN(const int64_t pins, place.DropPins());
    PrintDeleted(flags, {{"pins", pins}},
                 absl::StrCat("namespace ", Printable(flags.store.ns), ": ", pins, " pins released"));
    return absl::OkStatus();
  }
  if (!flags.prefix.empty()) {
    KVLINK_ASSIGN_OR_RETURN(const int64_t deleted, place.DeletePrefix(flags.prefix));
    PrintDeleted(flags, {{"documents", deleted}}, absl::StrCat(CountOf(deleted), " deleted"));
    return absl::OkStatus();
  }
  return DeleteIds(place, ids, flags);
}

}  // namespace

absl::Status RunDelete(absl::Span<char* const> args) {
  DeleteFlags flags;
  flags.store.memory = int64_t{64} << 20;  // nothing is read
  Arguments arguments("delete", "[ID...]", kDeleteSummary);
  AddPlaceFlags(arguments, flags.store);
  arguments.Text("namespace", "NAME", "Namespace of the documents.", &flags.store.ns);
  arguments.Text("prefix", "TEXT", "Delete every document whose id begins with TEXT.", &flags.prefix);
  arguments.Text("from", "FILE", "Delete the documents whose ids are in FILE (- for standard input), one per line.",
                 &flags.from);
  arguments.Flag("whole-namespace", "Delete the entire namespace, including its limits.", &flags.whole_namespace);
  arguments.Flag("unpin", "Delete no documents; release all pins of the namespace on a node.", &flags.unpin);
  arguments.Flag("forget", "Delete the generations of the documents too, so that any generation may follow.",
                 &flags.forget);
  AddJsonFlag(arguments, &flags.json);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  KVLINK_RETURN_IF_ERROR(CheckWhat(arguments, flags));
  KVLINK_RETURN_IF_ERROR(store::ValidateName("namespace", flags.store.ns));
  std::vector<std::string> ids = arguments.operands();
  if (!flags.from.empty()) {
    KVLINK_ASSIGN_OR_RETURN(ids, ReadIds(flags.from));
  }
  KVLINK_RETURN_IF_ERROR(CheckIds(ids));
  KVLINK_ASSIGN_OR_RETURN(const auto place, OpenPlace(flags));
  const absl::Status deleted = Delete(*place, ids, flags);
  if (flags.store.wait > 0 && (deleted.ok() || absl::IsNotFound(deleted))) {
    KVLINK_RETURN_IF_ERROR(place->AwaitRemoved(SteadyNow() + absl::Seconds(flags.store.wait)));
  }
  return HintAtKey(deleted);
}

}  // namespace kvlink::cli
