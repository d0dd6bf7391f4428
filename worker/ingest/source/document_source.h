// Documents from JSON lines, text files, directories and standard input.
//
//   JSON lines   one object a line: {"id": "...", "title": "...", "text": "..."}; id may be an integer, title may be
//                missing, other members are ignored. Names ending in .jsonl or .ndjson (and .gz or .zst after that).
//   text files   one document a file: its id is the file's name, its title the name without extensions. All other
//                names, except .json and .csv, of which nobody can tell what is meant: the options say it.
//   directories  every .txt, .md, .jsonl and .ndjson file in them (compressed or not), in order of name; ids of text
//                files are their paths from the directory. Links to directories are not followed, hidden files are
//                left out. A folder that cannot be listed is one failed item.
//   "-"          JSON lines on standard input, unless the options say text.
//
// Of a corpus that several processes share, each source gives the documents of one shard: by their ids, and what has no
// id by the place where it stands (name of its file and line), so that it is in one shard as well. Text files of other
// shards are not read.
//
// Thread-safety: one thread at a time, but Stop() from any.
#ifndef KVLINK_WORKER_INGEST_SOURCE_DOCUMENT_SOURCE_H_
#define KVLINK_WORKER_INGEST_SOURCE_DOCUMENT_SOURCE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/ingest/source/directory_walk.h"
#include "worker/ingest/source/interrupt.h"
#include "worker/ingest/source/line_reader.h"
#include "worker/ingest/source/shard.h"

namespace kvlink::ingest {

struct SourceOptions {
  enum class Format { kAuto, kJsonLines, kText } format = Format::kAuto;
  // For one text file or standard input as text; empty: from the file's name.
  std::string id;
  std::string title;
  int64_t max_document_bytes = int64_t{64} << 20;  // of a line or of a text file, decompressed
  Shard shard;
};

// One document, or why it could not be read. `where` is "file" or "file:line".
struct SourceItem {
  std::string where;
  absl::Status status;
  std::string id;  // empty if it is not known
  std::string title;
  std::string text;      // valid UTF-8
  int64_t position = 0;  // bytes of all inputs (compressed where they are) up to the end of this document
};

class DocumentSource {
 public:
  // Counts what the inputs are. INVALID_ARGUMENT: no inputs, "-" twice, an id or a title for more than one text, a
  // .json or .csv file without a format. NOT_FOUND naming a path that is not there; a directory without documents.
  static absl::StatusOr<std::unique_ptr<DocumentSource>> Open(const std::vector<std::string>& paths,
                                                              const SourceOptions& options);
  // The next document of the shard, good or bad; nullopt at the end. What is wrong with one document or one file never
  // ends the others.
  std::optional<SourceItem> Next();
  // From now on, and at once, Next() returns nullopt where it would have to read on. For signal handlers too.
  void Stop() const {
    stopped_ = true;
    interrupt_->Raise();
  }
  bool stopped() const { return stopped_; }
  const Shard& shard() const { return options_.shard; }
  // So far: items without an id, of whatever shard. What they were to be nobody can say.
  int64_t unnamed() const { return unnamed_; }
  // Bytes of all inputs; 0 if that is not known (standard input).
  int64_t total_bytes() const { return total_bytes_; }
  // Files of directories that are none of the kinds above.
  int64_t ignored_files() const { return ignored_files_; }

 private:
  struct Input {
    std::string path;
    std::string id;  // of a text
    bool directory = false;
    bool json_lines = false;
    int64_t bytes = 0;
    absl::Status status = absl::OkStatus();  // why it cannot be read, where that is known already
  };
  DocumentSource(const SourceOptions& options, std::unique_ptr<Interrupt> interrupt)
      : options_(options), interrupt_(std::move(interrupt)) {}
  absl::Status AddPath(const std::string& path);
  absl::Status AddDirectory(const std::string& path);
  bool AreJsonLines(const std::string& name, bool otherwise) const;
  // The next file to be read into current_; false at the end.
  bool TakeInput();
  void FinishInput();
  // The next item, of whatever shard; of a text of another one only its id.
  std::optional<SourceItem> NextOfAll();
  bool IsOurs(const SourceItem& item) const;
  std::optional<SourceItem> NextLine();
  SourceItem ReadText(const Input& input);

  const SourceOptions options_;
  const std::unique_ptr<const Interrupt> interrupt_;
  mutable std::atomic<bool> stopped_{false};
  int64_t unnamed_ = 0;
  std::vector<Input> inputs_;  // as they were named: files and directories
  int64_t total_bytes_ = 0;
  int64_t ignored_files_ = 0;
  bool total_known_ = true;
  size_t next_input_ = 0;
  std::unique_ptr<DirectoryWalk> walk_;  // through the input before
  std::optional<Input> current_;
  int64_t finished_bytes_ = 0;         // of the files before the current one
  std::unique_ptr<LineReader> lines_;  // of the current file
};

}  // namespace kvlink::ingest

#endif  // KVLINK_WORKER_INGEST_SOURCE_DOCUMENT_SOURCE_H_
