// The page at "/", for trying a server in a browser: index.html and page.js beside this file. It loads nothing from
// elsewhere, so it works offline. Thread-safety: pure functions.
#ifndef KVLINK_WORKER_SERVE_PAGE_PAGE_H_
#define KVLINK_WORKER_SERVE_PAGE_PAGE_H_

#include "absl/strings/string_view.h"

namespace kvlink::serve {

absl::string_view PageHtml();
absl::string_view PageScript();

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_PAGE_PAGE_H_
