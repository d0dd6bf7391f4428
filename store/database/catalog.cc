// Documents. This process works out a batch, by the same rules as the embedded catalog, against the stored state of its
// documents: one round trip locks and reads them, a second one writes the changes and commits.
//
// All transactions take locks in one order, so that they cannot deadlock: existing documents by id, then new ones by
// id, then identities that lose a reference. If another client makes a document in between, the insertion fails, and
// the batch is worked out again.
#include <algorithm>
#include <cstring>
#include <iterator>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/database/database_impl.h"
#include "store/store.h"

namespace kvlink::store::database {
namespace {

constexpr int64_t kDeletedAtATime = 1024;  // documents of a namespace, in one transaction
constexpr int kIdentityLocks = 128;
// References that the documents of one transaction, which must end in time, may lose; one document has up to 4096.
constexpr int64_t kMaxRemoved = 16384;

absl::string_view ViewOf(const Identity& identity) {
  return {reinterpret_cast<const char*>(identity.bytes.data()), identity.bytes.size()};
}

std::set<Identity> IdentitiesOf(const CatalogEntry& entry) {
  std::set<Identity> identities;
  for (const CatalogPart& part : entry.parts) identities.insert(part.identity);
  return identities;
}

// The format of the column documents.identities: one identity after another.
std::string Join(const std::set<Identity>& identities) {
  std::string joined;
  for (const Identity& identity : identities) absl::StrAppend(&joined, ViewOf(identity));
  return joined;
}

absl::StatusOr<std::set<Identity>> Split(absl::string_view joined, absl::string_view id) {
  std::set<Identity> identities;
  Identity identity;
  if (joined.size() % identity.bytes.size() != 0) {
    return absl::DataLossError(absl::StrCat("document ", id, ": its row in the database is damaged"));
  }
  for (; !joined.empty(); joined.remove_prefix(identity.bytes.size())) {
    std::memcpy(identity.bytes.data(), joined.data(), identity.bytes.size());
    identities.insert(identity);
  }
  return identities;
}

int64_t TokensOf(const CatalogEntry& entry) {
  int64_t tokens = 0;
  for (const CatalogPart& part : entry.parts) tokens += static_cast<int64_t>(part.tokens.size());
  return tokens;
}

// References of documents to identities, as the two arrays that statements expect.
struct References {
  std::vector<Identity> identities;
  std::vector<absl::string_view> ids;

  void Add(const Identity& identity, absl::string_view id) {
    identities.push_back(identity);
    ids.push_back(id);
  }
  Parameters ToParameters(absl::string_view ns) const {
    std::vector<absl::string_view> views;
    for (const Identity& identity : identities) views.push_back(ViewOf(identity));
    return Parameters().Text(ns).BytesOf(views).Texts(ids);
  }
};

// Removes the references, and appends identities without references to the drop log.
void AppendRemoval(absl::string_view ns, const References& removed, std::vector<Query>* queries) {
  if (removed.ids.empty()) return;
  const std::set<Identity> identities(removed.identities.begin(), removed.identities.end());
  std::set<int64_t> locks;
  std::vector<absl::string_view> views;
  for (const Identity& identity : identities) {
    locks.insert(identity.bytes[0] % kIdentityLocks);
    views.push_back(ViewOf(identity));
  }
  queries->push_back({&kLockIdentities, Parameters().Integers(std::vector<int64_t>(locks.begin(), locks.end()))});
  queries->push_back({&kDeleteReferences, removed.ToParameters(ns)});
  queries->push_back({&kInsertDrops, Parameters().Text(ns).BytesOf(views)});
}

// The columns of kvlink.documents. The viewed strings must outlive the object.
struct Columns {
  std::vector<absl::string_view> ids, titles, entries;
  std::vector<int64_t> generations, written, tokens;
  std::vector<char> tombstones;
  std::vector<std::string> identities;

  // `bytes`: the serialised entry as stored, without its time of writing, which has its own column.
  void Add(absl::string_view id, const CatalogEntry& entry, const std::set<Identity>& of_parts,
           absl::string_view bytes) {
    ids.push_back(id);
    generations.push_back(static_cast<int64_t>(entry.generation));
    written.push_back(static_cast<int64_t>(entry.written_at_us));
    tokens.push_back(TokensOf(entry));
    tombstones.push_back(entry.tombstone ? 1 : 0);
    titles.push_back(entry.title);
    identities.push_back(Join(of_parts));
    entries.push_back(bytes);
  }
  Parameters ToParameters(absl::string_view ns) const {
    return Parameters()
        .Text(ns)
        .Texts(ids)
        .Integers(generations)
        .Flags(tombstones)
        .Integers(written)
        .Integers(tokens)
        .BytesOf(titles)
        .BytesOf(std::vector<absl::string_view>(identities.begin(), identities.end()))
        .BytesOf(entries);
  }
};

// A put with its serialised entry; `status` says why an entry is invalid.
struct Prepared {
  const DocumentPut* put;
  absl::Status status;
  std::string bytes;
};

std::string SerializeToStore(const CatalogEntry& entry, uint64_t generation) {
  if (entry.generation == generation && entry.written_at_us == 0) return SerializeCatalogEntry(entry);
  CatalogEntry stored = entry;
  stored.generation = generation;
  stored.written_at_us = 0;
  return SerializeCatalogEntry(stored);
}

std::vector<Prepared> Prepare(absl::Span<const DocumentPut> puts) {
  std::vector<Prepared> prepared;
  for (const DocumentPut& put : puts) {
    Prepared& one = prepared.emplace_back(Prepared{&put, {}, SerializeToStore(put.entry, put.entry.generation)});
    one.status = ParseCatalogEntry(one.bytes).status();
  }
  return prepared;
}

using Generations = std::vector<absl::StatusOr<uint64_t>>;

// Inserts new documents that all name their generation, in one round trip. ABORTED, with nothing changed: some exist
// already, or another client is making them.
absl::Status InsertNew(Connection& connection, absl::string_view ns, absl::Span<const Prepared> puts,
                       absl::Time deadline, Generations& generations) {
  // All clients insert in order of id.
  std::map<absl::string_view, const Prepared*> by_id;
  for (const Prepared& one : puts) {
    if (!one.status.ok() || one.put->entry.generation == 0 || !by_id.emplace(one.put->id, &one).second) {
      return absl::AbortedError("they have to be worked out");
    }
  }
  Columns inserted;
  References added;
  for (const auto& [id, one] : by_id) {
    const std::set<Identity> identities = IdentitiesOf(one->put->entry);
    for (const Identity& identity : identities) added.Add(identity, id);
    inserted.Add(id, one->put->entry, identities, one->bytes);
  }
  std::fill(inserted.written.begin(), inserted.written.end(), 0);
  std::vector<Query> queries = {{&kInsertDocuments, inserted.ToParameters(ns)}};
  if (!added.ids.empty()) queries.push_back({&kInsertReferences, added.ToParameters(ns)});
  KVLINK_RETURN_IF_ERROR(connection.Run(queries, deadline).status());
  generations.clear();
  for (const Prepared& one : puts) generations.push_back(one.put->entry.generation);
  return absl::OkStatus();
}

// Puts of one namespace in one transaction.
class Batch {
 public:
  Batch(absl::string_view ns, absl::Span<const Prepared> puts) : ns_(ns), puts_(puts) {}

  // Carries out the puts, or only the first ones if the documents have many references. `generations`: of those.
  absl::Status Commit(Connection& connection, absl::Time deadline, Generations& generations) {
    KVLINK_RETURN_IF_ERROR(LockAndRead(connection, deadline));
    generations.clear();
    int64_t references = 0;
    for (const Prepared& one : puts_) {
      if (one.status.ok()) {
        references += static_cast<int64_t>(documents_.find(one.put->id)->second.identities_in_table.size());
        if (!generations.empty() && references > kMaxRemoved) break;
      }
      generations.push_back(one.status.ok() ? Put(one) : absl::StatusOr<uint64_t>(one.status));
    }
    return Write(connection, deadline);
  }
  // Whether none of the documents was there.
  bool all_new() const {
    return std::none_of(documents_.begin(), documents_.end(), [](const auto& one) { return one.second.in_table; });
  }

 private:
  struct Document {
    bool in_table = false;
    bool known = false;                 // has an entry that a put would replace
    const Prepared* changed = nullptr;  // the put that replaced it
    absl::Status unusable;              // why the entry can be neither compared nor replaced
    CatalogEntry entry;
    std::set<Identity> identities_in_table;
  };

  absl::Status LockAndRead(Connection& connection, absl::Time deadline) {
    std::map<absl::string_view, int64_t> wanted;  // ordered by id: locks are taken in this order
    for (const Prepared& one : puts_) {
      if (!one.status.ok()) continue;
      const CatalogEntry& entry = one.put->entry;
      const int64_t generation = entry.tombstone && entry.generation == 0 ? -1 : static_cast<int64_t>(entry.generation);
      const auto [it, is_new] = wanted.try_emplace(one.put->id, generation);
      if (!is_new && it->second != generation) it->second = 0;
    }
    std::vector<absl::string_view> ids;
    std::vector<int64_t> of_put;
    for (const auto& [id, generation] : wanted) {
      ids.push_back(id);
      of_put.push_back(generation);
      documents_[id];
    }
    KVLINK_ASSIGN_OR_RETURN(
        const auto rows,
        connection.Run({Query{&kBegin, {}}, Query{&kLockDocuments, Parameters().Text(ns_).Texts(ids).Integers(of_put)},
                        Query{&kClock, {}}},
                       deadline));
    clock_us_ = static_cast<uint64_t>(rows[2].Integer(0, 0));
    for (int row = 0; row < rows[1].size(); ++row) KVLINK_RETURN_IF_ERROR(Know(rows[1], row));
    return absl::OkStatus();
  }

  absl::Status Know(const Rows& rows, int row) {
    const absl::string_view id = rows.Bytes(row, 0);
    const auto it = documents_.find(id);
    if (it == documents_.end()) return absl::InternalError("the database returned a document that was not asked for");
    Document& document = it->second;
    document.in_table = true;
    document.known = true;
    document.entry.generation = static_cast<uint64_t>(rows.Integer(row, 1));
    document.entry.tombstone = rows.Flag(row, 2);
    const auto written_at_us = static_cast<uint64_t>(rows.Integer(row, 3));
    document.entry.written_at_us = written_at_us;
    KVLINK_ASSIGN_OR_RETURN(document.identities_in_table, Split(rows.Bytes(row, 4), id));
    if (rows.IsNull(row, 5)) return absl::OkStatus();
    auto entry = ParseCatalogEntry(rows.Bytes(row, 5));
    if (entry.ok()) {
      document.entry = *std::move(entry);
      document.entry.written_at_us = written_at_us;
    } else if (absl::IsUnimplemented(entry.status())) {
      document.unusable = entry.status();
    } else {
      document.known = false;  // does not parse; only replacing it can repair it
    }
    return absl::OkStatus();
  }

  absl::StatusOr<uint64_t> Put(const Prepared& prepared) {
    const DocumentPut& put = *prepared.put;
    Document& document = documents_.find(put.id)->second;
    KVLINK_RETURN_IF_ERROR(document.unusable);
    const CatalogEntry& there = document.entry;
    if (document.known) {
      const auto takes_place = TakesPlace(there, put.entry);
      KVLINK_RETURN_IF_ERROR(Annotate(takes_place.status(), absl::StrCat("document ", put.id)));
      if (!*takes_place) return there.generation;
    }
    CatalogEntry entry = put.entry;
    // Times within a batch are unique, and later than the document's previous time.
    entry.written_at_us = std::max(clock_us_++, there.written_at_us + 1);
    if (entry.generation == 0) entry.generation = std::max(entry.written_at_us, there.generation + 1);
    document.entry = std::move(entry);
    document.known = true;
    document.changed = &prepared;
    return document.entry.generation;
  }

  absl::Status Write(Connection& connection, absl::Time deadline) {
    Columns inserted, updated;
    References added, removed;
    std::list<std::string> serialised;
    for (const auto& [id, document] : documents_) {
      if (document.changed == nullptr) continue;
      const std::set<Identity> after = IdentitiesOf(document.entry);
      for (const Identity& identity : after) {
        if (!document.identities_in_table.contains(identity)) added.Add(identity, id);
      }
      for (const Identity& identity : document.identities_in_table) {
        if (!after.contains(identity)) removed.Add(identity, id);
      }
      absl::string_view bytes = document.changed->bytes;
      if (document.changed->put->entry.generation == 0) {
        bytes = serialised.emplace_back(SerializeToStore(document.entry, document.entry.generation));
      }
      (document.in_table ? updated : inserted).Add(id, document.entry, after, bytes);
    }
    std::vector<Query> queries;
    if (!inserted.ids.empty()) queries.push_back({&kInsertDocuments, inserted.ToParameters(ns_)});
    if (!updated.ids.empty()) queries.push_back({&kUpdateDocuments, updated.ToParameters(ns_)});
    if (!added.ids.empty()) queries.push_back({&kInsertReferences, added.ToParameters(ns_)});
    AppendRemoval(ns_, removed, &queries);
    queries.push_back({&kCommit, {}});
    return connection.Run(queries, deadline).status();
  }

  const absl::string_view ns_;
  const absl::Span<const Prepared> puts_;
  std::map<absl::string_view, Document> documents_;
  uint64_t clock_us_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<absl::StatusOr<uint64_t>>> DatabaseImpl::PutDocuments(
    absl::string_view ns, absl::Span<const DocumentPut> documents) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  for (const DocumentPut& one : documents) KVLINK_RETURN_IF_ERROR(ValidateName("document id", one.id));
  std::vector<absl::StatusOr<uint64_t>> generations;
  size_t most = documents.size();
  while (generations.size() < documents.size()) {
    const auto rest = documents.subspan(generations.size(), most);
    const auto group = rest.subspan(0, FirstGroup(rest));
    const std::vector<Prepared> prepared = database::Prepare(group);
    Generations put;
    const absl::Status status =
        pool_.Run(absl::InfiniteFuture(), [&](Connection& connection, absl::Time deadline) -> absl::Status {
          // A failed attempt costs a round trip, so it is made only if the last batch was all new.
          if (last_was_new_) {
            const absl::Status inserted = InsertNew(connection, ns, prepared, deadline, put);
            if (!absl::IsAborted(inserted)) return inserted;
          }
          Batch batch(ns, prepared);
          KVLINK_RETURN_IF_ERROR(batch.Commit(connection, deadline, put));
          last_was_new_ = batch.all_new();
          return absl::OkStatus();
        });
    for (const DocumentPut& one : group) cache_.Forget(ns, one.id);
    KVLINK_RETURN_IF_ERROR(status);
    generations.insert(generations.end(), put.begin(), put.end());
    // Each group locks and reads its documents anew, so it should not be much larger than what it carries out.
    most = std::max<size_t>(2 * put.size(), 1);
  }
  return generations;
}

absl::StatusOr<std::vector<absl::Status>> DatabaseImpl::DeleteDocuments(absl::string_view ns,
                                                                        absl::Span<const DocumentDeletion> documents) {
  return PutTombstones(ns, documents);
}

absl::StatusOr<std::vector<absl::StatusOr<CatalogEntry>>> DatabaseImpl::GetDocuments(
    absl::string_view ns, absl::Span<const std::string> ids) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  for (const std::string& id : ids) KVLINK_RETURN_IF_ERROR(ValidateName("document id", id));
  std::vector<std::optional<absl::StatusOr<CatalogEntry>>> entries(ids.size());
  bool any = false;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (auto kept = cache_.Find(ns, ids[i])) entries[i] = *std::move(kept);
    any = any || entries[i].has_value();
  }
  const absl::Status status = ReadDocuments(ns, ids, entries);
  if (!status.ok() && !any) return status;
  std::vector<absl::StatusOr<CatalogEntry>> answers;
  for (auto& entry : entries) answers.push_back(entry.has_value() ? *std::move(entry) : status);
  return answers;
}

absl::Status DatabaseImpl::ReadDocuments(absl::string_view ns, absl::Span<const std::string> ids,
                                         std::vector<std::optional<absl::StatusOr<CatalogEntry>>>& entries) {
  std::vector<size_t> wanted;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!entries[i].has_value()) wanted.push_back(i);
  }
  while (!wanted.empty()) {
    const auto group = absl::MakeConstSpan(wanted).subspan(0, kMaxCatalogBatch);
    std::vector<size_t> left;
    const absl::Time now = SteadyNow();
    const uint64_t epoch = cache_.epoch();
    std::set<absl::string_view> asked;
    for (const size_t i : group) asked.insert(ids[i]);
    KVLINK_ASSIGN_OR_RETURN(
        const auto rows, Ask({Query{&kGetDocuments, Parameters().Text(ns).Texts(
                                                        std::vector<absl::string_view>(asked.begin(), asked.end()))}},
                             absl::InfiniteFuture(), Tables::kLately));
    std::map<absl::string_view, int> row_of;
    for (int row = 0; row < rows[0].size(); ++row) row_of[rows[0].Bytes(row, 0)] = row;
    for (const size_t i : group) {
      const std::string& id = ids[i];
      const auto row = row_of.find(id);
      if (row == row_of.end()) {
        entries[i] = absl::NotFoundError(absl::StrCat("no document ", id, " in ", ns));
      } else if (rows[0].Flag(row->second, 1)) {
        entries[i] = absl::NotFoundError(absl::StrCat("document ", id, " in ", ns, " was deleted"));
      } else if (rows[0].IsNull(row->second, 2)) {
        left.push_back(i);  // the answer reached its size limit
      } else {
        auto entry = ParseCatalogEntry(rows[0].Bytes(row->second, 2));
        if (entry.ok()) entry->written_at_us = static_cast<uint64_t>(rows[0].Integer(row->second, 3));
        if (absl::IsInvalidArgument(entry.status())) {
          entry =
              absl::DataLossError(absl::StrCat("document ", id, ": ", entry.status().message(), "; ingest it again"));
        }
        if (entry.ok()) cache_.Keep(ns, id, *entry, now, epoch);
        entries[i] = std::move(entry);
      }
    }
    left.insert(left.end(), wanted.begin() + static_cast<int64_t>(group.size()), wanted.end());
    wanted = std::move(left);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<DocumentInfo>> DatabaseImpl::ListDocuments(absl::string_view ns, absl::string_view after,
                                                                      int64_t limit) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  if (!after.empty()) KVLINK_RETURN_IF_ERROR(ValidateName("document id", after));
  std::vector<DocumentInfo> infos;
  std::string last(after);
  const auto left = [&] { return limit - static_cast<int64_t>(infos.size()); };
  // The first page suffices unless there are tombstones among its rows.
  for (int64_t page = limit, rows_read = page; left() > 0 && rows_read == page;) {
    KVLINK_ASSIGN_OR_RETURN(
        const auto rows,
        Ask({Query{&kListDocuments, Parameters().Text(ns).Text(last).Integer(page)}}, absl::InfiniteFuture()));
    rows_read = rows[0].size();
    for (int row = 0; row < rows[0].size() && left() > 0; ++row) {
      last = std::string(rows[0].Bytes(row, 0));
      if (rows[0].Flag(row, 1)) continue;
      infos.push_back({last, static_cast<uint64_t>(rows[0].Integer(row, 2)), std::string(rows[0].Bytes(row, 3)),
                       rows[0].Integer(row, 4), static_cast<uint64_t>(rows[0].Integer(row, 5))});
    }
  }
  return infos;
}

absl::StatusOr<NamespaceDeletion> DatabaseImpl::DeleteNamespace(absl::string_view ns) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  NamespaceDeletion deleted;
  // Each page continues where the previous one ended, so that concurrent writers cannot keep this running.
  std::string after;
  for (bool more = true; more;) {
    NamespaceDeletion page;
    std::string last;
    const absl::Status status =
        pool_.Run(absl::InfiniteFuture(), [&](Connection& connection, absl::Time deadline) -> absl::Status {
          page = {};
          KVLINK_ASSIGN_OR_RETURN(
              const auto rows,
              connection.Run(
                  {Query{&kBegin, {}}, Query{&kLockPage, Parameters().Text(ns).Text(after).Integer(kDeletedAtATime)}},
                  deadline));
          more = rows[1].size() == kDeletedAtATime;
          std::vector<absl::string_view> ids;
          References removed;
          for (int row = 0; row < rows[1].size(); ++row) {
            const absl::string_view id = rows[1].Bytes(row, 0);
            KVLINK_ASSIGN_OR_RETURN(const std::set<Identity> identities, Split(rows[1].Bytes(row, 2), id));
            if (row > 0 && static_cast<int64_t>(removed.ids.size() + identities.size()) > kMaxRemoved) {
              more = true;
              break;
            }
            ids.push_back(id);
            last = std::string(id);
            page.documents += rows[1].Flag(row, 1) ? 0 : 1;
            for (const Identity& identity : identities) removed.Add(identity, id);
          }
          std::vector<Query> queries;
          queries.push_back({&kDeleteDocuments, Parameters().Text(ns).Texts(ids)});
          AppendRemoval(ns, removed, &queries);
          if (!more) {
            queries.push_back({&kDeleteNamespace, Parameters().Text(ns)});
            queries.push_back({&kDropNamespace, Parameters().Text(ns)});
          }
          queries.push_back({&kCommit, {}});
          KVLINK_ASSIGN_OR_RETURN(const auto done, connection.Run(queries, deadline));
          for (size_t i = 0; i < queries.size(); ++i) {
            if (queries[i].statement == &kInsertDrops) page.encodings += done[i].changed();
          }
          return absl::OkStatus();
        });
    cache_.ForgetAll();
    KVLINK_RETURN_IF_ERROR(status);
    after = last;
    deleted.documents += page.documents;
    deleted.encodings += page.encodings;
  }
  return deleted;
}

}  // namespace kvlink::store::database
