// The version that was built.
#pragma once

namespace fastrl {

const char* version();  // of the package that this library was built for

}  // namespace fastrl
