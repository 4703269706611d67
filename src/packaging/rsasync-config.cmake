# For find_package(rsasync): rsasync::rsasync is the shared library, rsasync::static the archive.
#
# They stand before OpenSSL::SSL and OpenSSL::Crypto. Beside a static OpenSSL, whose functions of the
# same names come along and must lose, rsasync::static also takes
#     target_link_options(PROGRAM PRIVATE LINKER:-u,ASYNC_start_job LINKER:--allow-multiple-definition)

if(TARGET rsasync::rsasync)
    return()
endif()

# All is found from here, so that the whole tree may be moved.
get_filename_component(_rsasync_here "${CMAKE_CURRENT_LIST_DIR}" REALPATH) # /lib may be a link to /usr/lib
get_filename_component(_rsasync_libraries "${_rsasync_here}/../.." ABSOLUTE)
get_filename_component(_rsasync_headers "@HEADERS@" ABSOLUTE BASE_DIR "${_rsasync_libraries}")

add_library(rsasync::rsasync SHARED IMPORTED)
set_target_properties(rsasync::rsasync PROPERTIES
    IMPORTED_LOCATION "${_rsasync_libraries}/librsasync.so.@VERSION@"
    IMPORTED_SONAME librsasync.so.@MAJOR@
    INTERFACE_INCLUDE_DIRECTORIES "${_rsasync_headers}")

add_library(rsasync::static STATIC IMPORTED)
set_target_properties(rsasync::static PROPERTIES
    IMPORTED_LOCATION "${_rsasync_libraries}/librsasync.a"
    INTERFACE_INCLUDE_DIRECTORIES "${_rsasync_headers}")

unset(_rsasync_here)
unset(_rsasync_libraries)
unset(_rsasync_headers)
