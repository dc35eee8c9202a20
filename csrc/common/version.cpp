// The version of the package.
#include "common/version.h"

namespace fastrl {

const char* version() { return FASTRL_VERSION; }

}  // namespace fastrl
